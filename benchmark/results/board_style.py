"""The style sheet of the leaderboards' web page."""

from benchmark.results.web_style import WEB_STYLE

BOARD_STYLE = f"""\
{WEB_STYLE}
nav{{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:1rem 0}}
.box{{overflow-x:auto;scrollbar-width:thin;margin:1rem 0}}
.box:focus-visible{{outline-offset:-2px}}
img{{display:block;width:100%;min-width:36rem;max-width:46rem;height:auto}}
input{{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--pale);border-radius:4px;
padding:.25rem .5rem;margin:0 .5rem;max-width:9rem}}
table{{border-spacing:0;overflow-wrap:normal}}
th,td{{padding:.3rem .75rem;text-align:left;vertical-align:top;border-top:1px solid var(--line)}}
td{{min-width:9rem}}
.number{{min-width:0;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}}
th:first-child{{position:sticky;left:0;background:var(--paper);font-weight:400;white-space:nowrap}}
thead th{{vertical-align:bottom;padding:.3rem;border:0}}
thead th.number{{white-space:normal}}
button{{font:inherit;font-weight:600;text-align:inherit;color:inherit;background:none;border:0;border-radius:4px;
padding:.15rem .45rem;cursor:pointer}}
button:hover{{background:var(--blank)}}
button::after{{content:"\\2195";margin-left:.3em;color:var(--pale);font-weight:400}}
[aria-sort=ascending] button::after{{content:"\\2191";color:inherit}}
[aria-sort=descending] button::after{{content:"\\2193";color:inherit}}
sup{{line-height:0}}
code{{font:.95em ui-monospace,monospace}}
ol{{margin:.5rem 0;padding-left:1.75rem;max-width:75rem}}"""
