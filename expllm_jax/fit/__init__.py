"""Whether a run fits, before a chip is rented: the real training and generation programs, compiled for TPUs that are
not there.

`libtpu` holds the whole TPU compiler and runs on any Linux x86-64. It is started in a child process (`compiling`,
`child`), because it wants the environment to itself; what it is asked and answers is in `request`.
"""
