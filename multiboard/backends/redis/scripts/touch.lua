-- Licensed under the Apache License, Version 2.0; see the file LICENSE.
-- flags: allow-oom
-- Write something. WAIT waits for what its own connection wrote last: where the effect of another
-- one is to be waited for, this stands before it.
--
-- Replies  {'OK'}

call('HSET', META, 'touched', stamp)
return {seq, 'OK'}
