# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Our backends, one file each. They import the primitives, the errors and their own client."""
