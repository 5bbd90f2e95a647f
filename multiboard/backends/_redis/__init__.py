# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What :mod:`multiboard.backends.redis` is made of; its scripts are in ``lua``."""
