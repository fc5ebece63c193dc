"""Benchmarks: `python -m benchmarks` measures, prints one table and writes one JSON file.

::

    __main__    the rows, the table, the file
    figure      one line of the table, and what its bound makes of it
    stage       what rows have in common: database, simulator, milestone, people, `milepost serve`
    load        the caller, in a process of its own
    empty       the endpoint that does nothing
    single bulk direct calls limits memory ledger    one row each, from `measure(…)`

Wherever a figure can be a ratio it is one, of two measurements that alternate inside one run, and
each side is the median of its rounds: another machine, or the same one on a busy day, changes both.
"""
