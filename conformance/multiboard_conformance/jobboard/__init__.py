# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The checks of a whole jobboard, ours or TaskFlow's."""
