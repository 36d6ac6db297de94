"""Where the teacher's side of a step comes from: the shared base, a frozen copy, a cache of rows, a server."""
