# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Between a connected board and its backend: it knows no store and no TaskFlow."""
