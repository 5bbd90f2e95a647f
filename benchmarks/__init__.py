# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The same work on our board and on TaskFlow's own boards, side by side, on the same servers.

It is no part of the installed package. Nothing here asserts a time: figures are printed, with the
bounds that we hold ourselves to beside them.
"""
