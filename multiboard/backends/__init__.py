# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Our backends, a folder a store. They import the primitives, the errors and their own client."""
