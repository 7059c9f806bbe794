"""The style sheet of an inspection page."""

from benchmark.inspection.marks import MARKS
from benchmark.results.look import ACCENT, PALETTE
from benchmark.results.web_style import WEB_STYLE

_LAYOUT = """\
h3{font-size:1rem;margin:0 0 .5rem}
dl{display:grid;grid-template-columns:fit-content(40%) minmax(0,1fr);gap:.1rem 1rem;margin:0 0 1rem}
dt{color:var(--pale)}
dd{margin:0}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:1rem 0}
.overview{display:flex;flex-wrap:wrap;gap:1.5rem 3.5rem;align-items:flex-start}
table{border-collapse:collapse;margin:0 0 .75rem}
th,td{padding:.2rem 1.25rem .2rem 0;text-align:right;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums}
th:first-child{text-align:left;font-weight:400}
figure{margin:0;flex:0 1 26rem}
figcaption{margin-bottom:.5rem}
svg{display:block;width:100%;height:auto;font-size:10px;fill:currentColor}
svg text{dominant-baseline:central}
.limits{text-anchor:end;fill:var(--pale)}
.key{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 1em;border:1.5px solid}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;margin:.75rem 0;padding:0}
article{display:grid;grid-template-columns:7rem minmax(0,1fr);gap:0 1.25rem;padding:1rem 0;
border-top:1px solid var(--line)}
article:first-of-type{margin-top:1rem}
h3{grid-column:1/-1}
.lists{overflow-x:auto;scrollbar-width:thin;padding-bottom:.5rem}
.lists ol{display:flex;gap:.4rem;list-style:none;margin:.25rem 0 .75rem;padding:0}
.lists ol:last-child{margin-bottom:0}
.lists li{flex:none;width:4.75rem}
.lists p{position:sticky;left:0;width:fit-content;max-width:100%;margin:0}
.thumb{display:grid;place-items:center;width:100%;aspect-ratio:1;border:3px solid var(--line);border-radius:4px;
background:var(--blank) center/contain no-repeat;color:var(--pale);font-size:12px;print-color-adjust:exact}
.caption,.name{display:block;font-size:12px;line-height:1.35}
.caption{display:flex;justify-content:space-between;font-variant-numeric:tabular-nums;margin-top:.2rem}
.lists .name{color:var(--pale);white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.mark{display:inline-block;width:1.25em;border-radius:3px;color:#fff;font-weight:700;line-height:1.25;text-align:center;
print-color-adjust:exact}
.ignored .thumb{border-style:dashed}
@media (max-width:40rem){
article{grid-template-columns:minmax(0,1fr)}
.query{display:grid;grid-template-columns:4.75rem minmax(0,1fr);gap:0 .75rem;align-items:start;margin-bottom:.5rem}
th,td{padding-right:.75rem}}"""
STYLE = "\n".join(
    [
        WEB_STYLE,
        _LAYOUT,
        *(
            f".{mark.name} .thumb{{border-color:{mark.color}}}.{mark.name} .mark{{background:{mark.color}}}"
            for mark in MARKS.values()
        ),
        f".bar0{{fill:{PALETTE[0]}}}.bar1{{fill:none;stroke:{ACCENT};stroke-width:1.2}}",
        f".key0{{background:{PALETTE[0]};border-color:{PALETTE[0]}}}.key1{{border-color:{ACCENT}}}",
    ]
)
