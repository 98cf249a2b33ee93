"""The step in operations of torch, for parameters that are not on the CPU."""


class Call:
    pass
