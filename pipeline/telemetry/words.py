"""Numbers as people read them."""


def counted(n: int, noun: str, plural: str = "") -> str:
    """The number with its noun: 1 node, 2 nodes.

    Args:
        n: How many.
        noun: In the singular.
        plural: Where it does not end with an added s.
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
