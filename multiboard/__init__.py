# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One jobboard over many stores: a drop-in jobboard for TaskFlow."""
