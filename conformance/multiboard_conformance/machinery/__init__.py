# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What runs the checks and records what they did."""
