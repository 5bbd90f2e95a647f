# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""TaskFlow's API over the primitives of any store: the only importers of TaskFlow."""
