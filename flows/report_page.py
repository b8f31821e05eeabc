"""The page of a report: its template and its style, both schemes. It asks for nothing beyond itself: no script, no font, no picture."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1b2230; --muted: #5d6778; --grid: #dfe3ea; --line: #e4e7ed; --accent: #1f5fbf;
  --good: #1a8754; --bad: #c8453b; --unsure: #a87412; --good-soft: #e5f4ec; --bad-soft: #fbe9e7; --unsure-soft: #faf1de; --soft: #eef1f5;
  --series-0: #1f5fbf; --series-1: #d9722b; --series-2: #1a8754; --series-3: #8a4fc4; --series-4: #b8860b; --series-5: #c43f77;
  --series-6: #3c8ea3; --series-7: #7a6652; --early: #b3c6e6; --late: #143d80; --low: #eef2f8; --high: #12468f; }
@media (prefers-color-scheme: dark) { :root {
  --page: #10141b; --card: #181e28; --text: #e6eaf1; --muted: #9aa5b6; --grid: #2b3442; --line: #273040; --accent: #7fb0ff;
  --good: #4cc38a; --bad: #f0776c; --unsure: #e0b050; --good-soft: #14301f; --bad-soft: #3a1d1b; --unsure-soft: #33280f; --soft: #202836;
  --series-0: #7fb0ff; --series-1: #f09a5c; --series-2: #4cc38a; --series-3: #bd93ee; --series-4: #e0b84a; --series-5: #ee7fae;
  --series-6: #6cc2d8; --series-7: #c0a78e; --early: #35486b; --late: #a9ccff; --low: #1f2735; --high: #8fbcff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 1280px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 30px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 42px 0 4px; letter-spacing: -.005em; }
h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 4px 0 12px; max-width: 78ch; }
.lead, .sub, figcaption, .note { color: var(--muted); }
.sub, .note { font-size: 13.5px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0; font-size: 13.5px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 370px), 1fr)); margin: 12px 0; align-items: start; }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); }
.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; margin: 0; min-width: 0; }
figure { max-width: 620px; width: 100%; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg text { font-family: inherit !important; }
figcaption { font-size: 13px; margin-top: 8px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13.5px; margin: 8px 0 0; padding: 0; list-style: none; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
.ramp { display: inline-flex; align-items: center; gap: 8px; font-size: 13px; color: var(--muted); }
.ramp i { display: inline-block; width: 130px; height: 10px; border-radius: 5px; }
.verdicts { list-style: none; margin: 0; padding: 0; }
.verdicts li { display: flex; gap: 10px; padding: 7px 0; border-top: 1px solid var(--line); }
.verdicts li:first-child { border-top: 0; }
.tag { flex: none; align-self: flex-start; min-width: 104px; text-align: center; font-size: 12px; font-weight: 600; border-radius: 999px;
  padding: 2px 10px; margin-top: 1px;
  background: var(--soft); color: var(--muted); }
.tag.better { background: var(--good-soft); color: var(--good); } .tag.worse { background: var(--bad-soft); color: var(--bad); }
.tag.open { background: var(--unsure-soft); color: var(--unsure); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; font-weight: 600; padding: 2px 0 8px; }
th, td { padding: 5px 10px; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border-top: 0; color: var(--muted); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.words, th.words { white-space: normal; text-align: left; overflow-wrap: anywhere; }
tr.best td, tr.best th { font-weight: 650; }
details { margin-top: 8px; font-size: 13px; } summary { cursor: pointer; color: var(--muted); }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
.change { border-top: 1px solid var(--line); padding: 12px 0; } .change:first-of-type { border-top: 0; }
.change .sides { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); }
.change .sides > div { min-width: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0; padding: 8px 10px; border-radius: 7px; background: var(--soft);
  max-height: 320px; overflow-y: auto;
  font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace; }
pre.correct { background: var(--good-soft); } pre.wrong { background: var(--bad-soft); }
.track { letter-spacing: 2px; font-weight: 700; } .yes { color: var(--good); } .no { color: var(--bad); }
.who { font-size: 12.5px; color: var(--muted); }
.chain { list-style: none; padding: 0; margin: 0; }
.chain li { position: relative; padding: 0 0 14px 26px; }
.chain li::before, .chain li:not(:last-child)::after { content: ""; position: absolute; }
.chain li::before { left: 5px; top: 6px; width: 10px; height: 10px; border-radius: 50%; background: var(--accent); }
.chain li:not(:last-child)::after { left: 9px; top: 18px; bottom: -4px; width: 2px; background: var(--line); }
code { font: 12.5px ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; color: var(--muted); }
footer { margin-top: 46px; padding-top: 16px; padding-bottom: 40px; border-top: 1px solid var(--line); color: var(--muted); font-size: 13.5px; }
@media (max-width: 520px) { main, header, footer { padding-left: 12px; padding-right: 12px; } .card, figure { padding: 12px; } h1 { font-size: 22px; }
  .verdicts li { flex-direction: column; gap: 4px; } }
@media print { body { background: #fff; } .card, figure { break-inside: avoid; } nav { display: none; } }
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
{%- macro table(t, hidden=false) %}
{%- if hidden %}<details><summary>the numbers</summary>{% endif %}
<div class="scroll"><table>
{%- if t.caption %}<caption>{{ t.caption }}</caption>{% endif %}
<thead><tr>{% for name in t.header %}<th scope="col"{% if t.words %} class="words"{% endif %}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in t.rows %}<tr{% if loop.index0 == t.best %} class="best"{% endif %}>
{%- for cell in row %}{% if loop.first %}<th scope="row">{{ cell }}</th>{% else %}
<td{% if t.words %} class="words"{% endif %}>{{ cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{%- if hidden %}</details>{% endif %}
{%- endmacro %}
{%- macro plot(f) %}
<figure>{% if f.title %}<h3>{{ f.title }}</h3>{% endif %}
<div role="img" aria-label="{{ f.alt }}">{{ f.svg | safe }}</div>
{%- if f.caption %}<figcaption>{{ f.caption }}</figcaption>{% endif %}{{ table(f.table, true) }}</figure>
{%- endmacro %}
{%- macro legend(entries) %}{% if entries %}
<ul class="legend">{% for name, colour in entries %}<li><i style="background:{{ colour }}"></i>{{ name }}</li>{% endfor %}</ul>
{%- endif %}{% endmacro %}
{%- macro rollout(r, who) %}<div><div class="who">{{ who }}</div>{% if r %}<pre class="{{ r.outcome }}">{{ r.completion }}</pre>
<div class="who">read as {{ r.answer if r.answer is not none else "no answer" }} · {{ r.outcome }}</div>
{%- else %}<pre>not in the store any more</pre>{% endif %}</div>{% endmacro %}
<header>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
<nav aria-label="sections">{% for s in sections %}<a href="#{{ s.id }}">{{ s.title }}</a>{% endfor %}</nav>
</header>
<main>
{% for s in sections %}
<section id="{{ s.id }}" aria-labelledby="{{ s.id }}-title">
<h2 id="{{ s.id }}-title">{{ s.title }}</h2>
{% if s.words %}<p class="sub">{{ s.words }}</p>{% endif %}
{% if s.ramp %}<span class="ramp">{{ s.ramp.low }}
<i style="background:linear-gradient(90deg in oklab, var({{ s.ramp.from }}), var({{ s.ramp.to }}))"></i>{{ s.ramp.high }}</span>{% endif %}
{{ legend(s.legend) }}
{% for v in s.verdicts %}{% if loop.first %}<div class="grid">{% endif %}
<div class="card"><h3>{{ v.metric }}</h3><ul class="verdicts">
{% for p in v.pairs %}<li><span class="tag {{ p.verdict }}">{{ p.tag }}</span><span>{{ p.words }}</span></li>
{% endfor %}</ul></div>
{% if loop.last %}</div>{% endif %}{% endfor %}
{% for t in s.tables %}<div class="card" style="margin:12px 0">{{ table(t) }}</div>{% endfor %}
{% for group in s.groups %}{% if group.title %}<h3 style="margin-top:18px">{{ group.title }}</h3>{% endif %}
<div class="grid{{ ' small' if s.small }}">{% for f in group.figures %}{{ plot(f) }}{% endfor %}</div>{% endfor %}
{% for c in s.changes %}<div class="card" style="margin:12px 0"><h3>{{ c.title }}</h3>
{% for e in c.examples %}<div class="change">
<div class="who"><code>{{ e.problem_id }}</code> · <span class="track" role="img" aria-label="{{ e.spoken }}">
{%- for m in e.track %}<span class="{{ 'yes' if m == '✓' else 'no' if m == '✗' }}">{{ m }}</span>{% endfor %}</span></div>
<div class="sides">{% if e.prompt %}<div><div class="who">problem</div><pre>{{ e.prompt }}</pre>
<div class="who">reference: {{ e.reference or "none" }}</div></div>{% endif %}
{{ rollout(e.before, c.before) }}{{ rollout(e.after, c.after) }}</div></div>{% endfor %}
{% if c.more %}<p class="note">{{ c.more }}</p>{% endif %}</div>{% endfor %}
{% for l in s.lineages %}<div class="card" style="margin:12px 0"><h3>{{ l.title }}</h3><ol class="chain">{% for a in l.chain %}
<li><strong>round {{ a.round }}</strong>{% if a.rate %} · {{ a.rate }}{% endif %}<br>{{ a.words }}<br>
<span class="who">artifact</span> <code>{{ a.identity[:8] or "–" }}</code> <span class="who">digest</span> <code>{{ a.digest[:8] }}</code></li>
{% endfor %}</ol></div>{% endfor %}
{% for n in s.notes %}<p class="note">{{ n }}</p>{% endfor %}
</section>
{% endfor %}
</main>
<footer>{% for f in foot %}<p>{{ f }}</p>{% endfor %}</footer>
</body>
</html>
"""
