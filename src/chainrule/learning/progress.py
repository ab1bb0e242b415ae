from contextlib import contextmanager
@contextmanager
def bar(name, *, total, enabled):
    yield -1
def report(token, step, value):
    pass
