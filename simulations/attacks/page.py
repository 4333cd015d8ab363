"""stub"""


def render(found):
    return "stub"
