# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""From a URL, a name or a service's configuration to a backend."""
