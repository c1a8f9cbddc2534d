"""Time max pooling's forward on CPU: this package, a copy of as many bytes, and every other max pool that is installed.

Columns: "values" without a gradient, "offsets" with the offsets that backward needs, each divided by the time of a copy
that moves as many bytes; the peers' inference forwards, and "train" where they record a gradient.
All contenders run in one process in interleaved turns, on PyTorch's number of threads; the least time counts. Before
that, results are compared with PyTorch's.
"""

from __future__ import annotations

from cases import DTYPES
from chart import PEERS as PEERS_IN_CHART
from command import Benchmark, run
from measure import measure
from peers import PEERS
from report import line, ratio, summary, table

if __name__ == "__main__":
    run(
        Benchmark(
            description=__doc__,
            peers=tuple(PEERS),
            dtypes=DTYPES,
            measure=measure,
            line=line,
            table=table,
            summary=summary,
            explanation="Time / copy. In parentheses: the figure to reach (! where missed); how many times faster than "
            "the peer.",
            chart_title="Max pooling forward: time / time to copy as many bytes (dashed line: 1). Shorter is better.",
            chart_labels={"values": "torch_maxpool"} | PEERS_IN_CHART,
            ratio=ratio,
        )
    )
