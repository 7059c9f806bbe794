"""What all web pages look like."""

WEB_STYLE = """\
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--pale:#59636e;--line:#d1d9e0;--blank:#f1f3f5}
@media (prefers-color-scheme:dark){
:root{--paper:#0d1117;--ink:#e6edf3;--pale:#9198a1;--line:#3d444d;--blank:#21262d}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.25rem clamp(.75rem,3vw,2rem) 3rem;max-width:118rem;background:var(--paper);
color:var(--ink);font:14px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .75rem}
h2{font-size:1.2rem;margin:2.25rem 0 .25rem}
p{margin:.25rem 0;max-width:75rem}
a{color:inherit}
:focus-visible{outline:2px solid #2279db;outline-offset:3px}
.pale{color:var(--pale)}"""
