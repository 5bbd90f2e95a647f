# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What :mod:`multiboard.backends.memory` is made of."""
