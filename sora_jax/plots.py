"""What `evaluate` found, as pictures."""

import io

from etils import epath

from sora_jax.data import video

INK = '#1f5fa8'
Interval = tuple[float, float]
Bar = tuple[float, Interval, float]  # a share, where it may be, its ceiling


def shares(path: epath.Path, rows: dict[str, Bar]) -> None:
  """Bars of shares, with the interval of each and the ceiling beside it.

  Args:
    path: of a PNG.
    rows: by name: the share, from where to where it may be, its ceiling.
  """
  figure, axes = _blank()
  for i, (share, (low, high), ceiling) in enumerate(rows.values()):
    error = [[share - low], [high - share]]
    axes.bar(i, share, 0.6, yerr=error, capsize=4, color=INK)
    axes.plot([i - 0.4, i + 0.4], [ceiling, ceiling], color='black')
  axes.set_xticks(range(len(rows)), list(rows))
  axes.set_ylim(0, 1.05)
  axes.set_ylabel('share of prompts kept; line: ceiling')
  _publish(path, figure)


def curve(path: epath.Path, points: dict[str, float], x: str, y: str) -> None:
  """One line, on a logarithmic scale.

  Args:
    path: of a PNG.
    points: y by x, which is written as text.
    x: what that is.
    y: likewise.
  """
  figure, axes = _blank()
  axes.semilogy([float(key) for key in points], list(points.values()), '.-')
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(alpha=0.3, which='both')
  _publish(path, figure)


def _blank():
  # Not pyplot, which keeps state and looks for a screen.
  from matplotlib import figure as figure_lib  # slow to import

  figure = figure_lib.Figure(figsize=(6, 3.5), dpi=120, layout='constrained')
  return figure, figure.subplots()


def _publish(path: epath.Path, figure) -> None:
  """Without a date, so that equal plots are equal files."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', metadata={'Software': None})
  video.publish(path, buffer.getvalue())
