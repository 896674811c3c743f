"""The style sheet of every report.html, light or dark as the reader's system is."""

STYLE = """
:root {
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d1d1f; --muted: #6b6b70; --grid: #e3e2de; --accent: #2b62b8;
  --bad: #a8321f; --series-1: #2b62b8; --series-2: #c4561a; --series-3: #2f8457; --series-4: #8a4fb0;
  --series-5: #a07a12; --series-6: #5b6b7a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141517; --card: #1c1d20; --ink: #e9e7e2; --muted: #9b9a97; --grid: #34353a; --accent: #7eaaf0;
    --bad: #ef8a76; --series-1: #7eaaf0; --series-2: #f0935a; --series-3: #6cc497; --series-4: #c99be6;
    --series-5: #dcb84f; --series-6: #a3b3c2;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 68rem; margin: 0 auto; padding: 3.5rem 1.5rem 4rem; }
h1, h2 { font-family: Charter, "Bitstream Charter", "Iowan Old Style", Georgia, serif; font-weight: 600; }
h1 { font-size: 2.4rem; line-height: 1.15; margin: 0.2rem 0 0.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.45rem; margin: 3rem 0 0.9rem; }
h3 { display: flex; justify-content: space-between; gap: 1rem; font-size: 0.95rem; margin: 0 0 0.5rem; }
h3, h3.named { overflow-wrap: anywhere; }
h3 b { color: var(--muted); font-weight: 500; }
p { margin: 0 0 1rem; max-width: 42rem; color: var(--muted); }
.eyebrow { margin: 0; font-size: 0.85rem; color: var(--accent); }
.facts { max-width: none; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin: 2rem 0 0;
  border-top: 1px solid var(--grid); border-bottom: 1px solid var(--grid);
}
.tiles div { padding: 1rem 1rem 1rem 0; }
.tiles b { display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 600; white-space: nowrap; }
.tiles span { font-size: 0.85rem; color: var(--muted); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1.1rem; }
figure { margin: 0; padding: 1rem 1.1rem; }
figure, pre { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; }
figure svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
figcaption { font-size: 0.82rem; color: var(--muted); margin-top: 0.4rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 1.2rem 0.35rem 0; }
tr > * { border-bottom: 1px solid var(--grid); }
th { font-weight: 400; color: var(--muted); width: 20rem; }
td { overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--grid); }
details table { margin: 0 0 1rem; }
details tr:last-child > * { border-bottom: 0; }
summary { cursor: pointer; padding: 0.5rem 0; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
pre {
  margin: 0 0 1rem; padding: 0.9rem 1.1rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 0.84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
.prompt { color: var(--muted); }
.samples { columns: 2 22rem; column-gap: 1.1rem; }
.samples pre { break-inside: avoid; }
.errors h2, .errors summary b { color: var(--bad); }
.errors summary span { color: var(--muted); }
.columns th { width: auto; padding-right: 1rem; overflow-wrap: anywhere; }
.columns td { padding-right: 1rem; }
.columns thead th { font-size: 0.82rem; vertical-align: bottom; overflow-wrap: normal; }
.columns tbody th { color: var(--ink); min-width: 6rem; }
.columns tfoot > tr > * { font-weight: 600; color: var(--ink); border-bottom: 0; }
.columns .number { text-align: right; white-space: nowrap; }
.columns tr > :last-child { padding-right: 0; }
.bars { display: grid; grid-template-columns: max-content max-content 1fr; gap: 0.35rem 1.2rem; }
.bars > * { font-size: 0.9rem; }
.bars span { color: var(--muted); overflow-wrap: anywhere; }
.bars b { font-weight: 500; text-align: right; }
.bars i { align-self: center; height: 0.6rem; min-width: 2px; background: var(--series-1); }
.step { margin: 1.8rem 0 0.3rem; }
h3.named { font-size: 1.1rem; margin: 2rem 0 0.6rem; }
.reason summary { overflow-wrap: anywhere; }
.reason summary span, .reason p span { color: var(--muted); }
.reason > p { margin: 0.2rem 0 0.4rem; max-width: none; color: var(--ink); overflow-wrap: anywhere; }
.reason pre { max-height: 16rem; overflow-y: auto; }
.row { margin-bottom: 1.4rem; }
.row pre { margin: 0; }
.piece { display: block; }
.piece + .piece { margin-top: 0.7rem; padding-top: 0.7rem; border-top: 1px dashed var(--muted); }
.piece small { display: block; color: var(--accent); font-family: system-ui, sans-serif; }
mark { background: none; color: var(--series-2); border: 1px solid; border-radius: 3px; padding: 0 0.2em; }
.wrong { color: var(--bad); }
footer { margin-top: 3rem; font-size: 0.82rem; color: var(--muted); }
@media (max-width: 48rem) {
  .columns thead { display: none; }
  .columns tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
  .columns tr { column-gap: 1.5rem; padding: 0.6rem 0; border-bottom: 1px solid var(--grid); }
  .columns tr > * { display: flex; justify-content: space-between; gap: 0.8rem; padding: 0.1rem 0; }
  .columns tr > * { border: 0; }
  .columns tr > :not(.number) { grid-column: 1 / -1; }
  .columns td::before { content: attr(data-label); color: var(--muted); font-weight: 400; }
  .columns td::before { white-space: nowrap; }
  details .columns tr:last-child { border-bottom: 0; }
  .columns th { font-weight: 600; }
  .columns td { text-align: right; }
}
@media (max-width: 36rem) { th { width: 40%; } main { padding-top: 2rem; } h1 { font-size: 1.8rem; } }
@media print {
  main { max-width: none; padding: 0; }
  figure, pre { break-inside: avoid; }
  .reason pre { max-height: none; }
}
"""
