"""Reading finds the very frame asked for; damage is told; writing is safe."""

import fractions
import hashlib
import io
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from sora_jax.data import video

CLIPS = pathlib.Path(__file__).parents[2] / 'shared' / 'clips'
BITS = 8  # a numbered frame shows its index as bits, least significant first


def numbered(count, width=96, height=64):
  """Frames that show their own index as white and black blocks."""
  frames = np.zeros((count, height, width, 3), np.uint8)
  for i in range(count):
    for bit in range(BITS):
      if i >> bit & 1:
        frames[i, 8:-8, 8 * bit + 8 : 8 * bit + 16] = 255
  return frames


def numbers(frames):
  blocks = frames[:, 24:40, 8 : 8 + 8 * BITS].mean(axis=(1, 3))
  bits = blocks.reshape(len(frames), BITS, 8).mean(axis=-1) > 128
  return (bits << np.arange(BITS)).sum(axis=-1).tolist()


def colourful(count, width=96, height=64):
  t, y, x = np.mgrid[:count, :height, :width]
  channels = [2 * x + 5 * t, 3 * y + t, x + y + 9 * t]
  return (np.stack(channels, axis=-1) % 256).astype(np.uint8)


def encode(
  path, frames, rate, codec='libx264', flags='', times=None, **options
):
  """Writes by other settings than `write_video` does."""
  options = {key.replace('_', '-'): str(v) for key, v in options.items()}
  with av.open(path, 'w', options={'movflags': flags} if flags else {}) as out:
    stream = out.add_stream(codec, rate=rate, options=options)
    _, stream.height, stream.width, _ = frames.shape
    stream.pix_fmt = 'yuv420p'
    # With several, bytes depend on the load.
    stream.codec_context.thread_count = 1
    for i, frame in enumerate(frames):
      picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
      picture.pts = i if times is None else times[i]
      picture.time_base = 1 / fractions.Fraction(rate)
      out.mux(stream.encode(picture))
    out.mux(stream.encode())
  return path


def boxes(data):
  """Where each top-level box of an mp4 begins."""
  at, found = 0, {}
  while at < len(data):
    found[bytes(data[at + 4 : at + 8])] = at
    at += int.from_bytes(data[at : at + 4], 'big')
  return found


KINDS = {
    'mp4': ('mp4', 24, dict(g=12)),
    'one keyframe': ('mp4', 24, dict(g=250)),
    'mp4 at 29.97': ('mp4', fractions.Fraction(30000, 1001), dict(g=7)),
    'fragmented': (
        'mp4', 24, dict(g=12, flags='frag_keyframe+empty_moov')),
    'open groups': ('mkv', 24, dict(g=12, x264_params='open-gop=1:bframes=3')),
    'intra refresh': ('mp4', 24, dict(x264_params='intra-refresh=1:keyint=20')),
    'webm': (
        'webm', fractions.Fraction(24000, 1001),
        dict(codec='libvpx-vp9', g=12, deadline='realtime', cpu_used=8)),
    'webm, hidden frames': (
        'webm', 25, dict(codec='libvpx', g=16, auto_alt_ref=1,
                         lag_in_frames=10, deadline='realtime')),
    'avi, reordered': ('avi', 24, dict(codec='mpeg4', g=12, bf=2)),
}  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_every_start_reads_the_frame_of_that_number(tmp_path, kind):
  suffix, rate, options = KINDS[kind]
  path = encode(tmp_path / f'x.{suffix}', numbered(60), rate, **options)
  info = video.read_info(path)
  assert info[:3] == (96, 64, 60)
  assert info.fps == pytest.approx(float(rate))
  for start in range(57):
    frames = video.read_frames(path, start, 3)
    assert numbers(frames) == [start, start + 1, start + 2]


def test_a_dropped_frame_is_held_so_that_motion_keeps_its_speed(tmp_path):
  times = [t for t in range(60) if t not in (20, 21)]
  path = encode(tmp_path / 'x.mkv', numbered(60)[times], 24, times=times, g=12)
  want = [t if t in times else 19 for t in range(60)]
  assert video.read_info(path).frames == 60
  for start in (0, 18, 20, 21, 22, 40):
    assert numbers(video.read_frames(path, start, 5)) == want[start : start + 5]


def test_rotation_is_applied(tmp_path):
  frames = colourful(2)
  path = tmp_path / 'x.mp4'
  with av.open(path, 'w') as out:
    stream = out.add_stream('libx264', rate=24, options={'crf': '4'})
    stream.width, stream.height, stream.pix_fmt = 96, 64, 'yuv444p'
    stream.set_display_rotation(90)  # counter-clockwise
    for frame in frames:
      out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    out.mux(stream.encode())
  assert video.read_info(path)[:2] == (64, 96)
  got = video.read_frames(path, 0, 2)
  np.testing.assert_allclose(got, np.rot90(frames, 1, (1, 2)), atol=60)


@pytest.mark.parametrize(
  ('suffix', 'tolerance'),
  [('png', 0), ('bmp', 0), ('jpg', 6), ('jpeg', 6), ('webp', 8), ('gif', 9)],
)
def test_an_image_is_a_video_of_one_frame(tmp_path, suffix, tolerance):
  smooth = np.stack(np.broadcast_arrays(*np.ogrid[:70, 90:183, 50:51]), -1)
  smooth = smooth[:, :, 0].astype(np.uint8)
  Image.fromarray(smooth).save(tmp_path / f'x.{suffix}', quality=95)
  info = video.read_info(tmp_path / f'x.{suffix}')
  assert info == (93, 70, 1, video.IMAGE_FPS)
  got = video.read_frames(tmp_path / f'x.{suffix}', 0, 1)
  assert got.shape == (1, 70, 93, 3)
  assert np.abs(got[0].astype(int) - smooth).mean() <= tolerance


def test_transparency_lies_on_white(tmp_path):
  Image.new('RGBA', (4, 4), (200, 0, 0, 0)).save(tmp_path / 'x.png')
  assert (video.read_frames(tmp_path / 'x.png', 0, 1) == 255).all()


# Broken files. Each is made from a whole one.


def whole(tmp_path, suffix='mp4', **options):
  noise = np.random.default_rng(0).integers(0, 256, (48, 64, 96, 3), np.uint8)
  path = encode(tmp_path / f'whole.{suffix}', noise, 24, **options)
  video.read_info(path)
  return path.read_bytes()


def make_empty(tmp_path):
  return 'mp4', b''


def make_text(tmp_path):
  return 'mp4', b'<html>404 Not Found</html>\n' * 20


def make_cut_index_last(tmp_path):
  data = whole(tmp_path)
  return 'mp4', data[: len(data) // 2]


def make_cut_index_first(tmp_path):
  data = whole(tmp_path, flags='faststart')
  return 'mp4', data[: len(data) // 2]


def make_cut_fragmented(tmp_path):
  data = whole(tmp_path, g=12, flags='frag_keyframe+empty_moov')
  return 'mp4', data[: len(data) // 2]


def make_corrupt_index(tmp_path):
  data = bytearray(whole(tmp_path))
  moov = boxes(data)[b'moov']
  data[moov + 8 :] = b'\x55' * len(data[moov + 8 :])
  return 'mp4', bytes(data)


def make_no_samples(tmp_path):
  data = whole(tmp_path)
  at = data.index(b'stsz')
  # Version and flags, a common size of 0, a count of 0.
  return 'mp4', data[: at + 4] + bytes(12) + data[at + 16 :]


def make_cut_webm(tmp_path):
  data = whole(tmp_path, 'webm', codec='libvpx', deadline='realtime')
  return 'webm', data[: len(data) // 2]


def make_zeroed_range(tmp_path):
  data = bytearray(whole(tmp_path, flags='faststart'))
  middle = (boxes(data)[b'mdat'] + len(data)) // 2
  data[middle : middle + 3000] = bytes(3000)
  return 'mp4', bytes(data)


def make_flipped_bit(tmp_path):
  # By the writer whose bytes are always the same: what a bit means depends on
  # all before it.
  noise = np.random.default_rng(0).integers(0, 256, (48, 64, 96, 3), np.uint8)
  data = bytearray(video.encode(tmp_path / 'whole.mp4', [noise], 24.0))
  start, end = boxes(data)[b'mdat'], boxes(data)[b'moov']
  data[start + (end - start) // 5] ^= 0x10
  return 'mp4', bytes(data)


def make_sound_only(tmp_path):
  with av.open(tmp_path / 'sound.mp4', 'w') as out:
    stream = out.add_stream('aac', rate=8000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
    )
    frame.sample_rate = 8000
    out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return 'mp4', (tmp_path / 'sound.mp4').read_bytes()


def make_cut_png(tmp_path):
  file = io.BytesIO()
  Image.fromarray(colourful(1)[0]).save(file, 'png')
  return 'png', file.getvalue()[: len(file.getvalue()) // 2]


def make_unknown_codec(tmp_path):
  data = encode(tmp_path / 'x.mp4', numbered(48), 24).read_bytes()
  return 'mp4', data.replace(b'avc1', b'zzzz')


BROKEN = [
    make_empty, make_text, make_cut_index_last, make_cut_index_first,
    make_cut_fragmented, make_corrupt_index, make_no_samples, make_cut_webm,
    make_zeroed_range, make_flipped_bit, make_sound_only, make_cut_png,
    make_unknown_codec,
]  # fmt: skip


@pytest.mark.parametrize('make', BROKEN)
def test_a_broken_file_is_told_in_one_line(tmp_path, make):
  suffix, data = make(tmp_path)
  path = tmp_path / f'broken.{suffix}'
  path.write_bytes(data)
  with pytest.raises(video.BrokenVideo) as caught:
    video.read_info(path)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)
  assert caught.value.reason
  with pytest.raises(video.BrokenVideo):
    video.read_frames(path, 0, 48)


def test_a_missing_file_is_told(tmp_path):
  for name in ('none.mp4', 'none.png'):
    with pytest.raises(video.BrokenVideo, match=name):
      video.read_info(tmp_path / name)


def test_reading_past_the_end_is_told(tmp_path):
  path = encode(tmp_path / 'x.mp4', numbered(10), 24)
  with pytest.raises(video.BrokenVideo, match='before frame 10'):
    video.read_frames(path, 7, 4)
  with pytest.raises(ValueError, match='start=-1'):
    video.read_frames(path, -1, 4)


def test_the_error_of_a_worker_process_arrives_whole():
  error = pickle.loads(pickle.dumps(video.BrokenVideo('a.mp4', 'cut')))
  assert (error.reason, str(error)) == ('cut', 'broken video a.mp4: cut')


# Writing.


@pytest.mark.parametrize(
  ('suffix', 'tolerance'), [('mp4', 3), ('gif', 10), ('webp', 3)]
)
def test_what_is_written_reads_back(tmp_path, suffix, tolerance):
  frames, path = colourful(17), tmp_path / f'x.{suffix}'
  video.write_video(path, frames, 24.0)
  info = video.read_info(path)
  assert info[:3] == (96, 64, 17)
  assert info.fps == pytest.approx(24.0, rel=0.01)
  got = video.read_frames(path, 0, 17)
  assert np.abs(got.astype(int) - frames).mean() < tolerance


def test_png_keeps_every_value(tmp_path):
  frames = colourful(1, 33, 17)
  video.write_video(tmp_path / 'x.png', frames, 24.0)
  np.testing.assert_array_equal(
    video.read_frames(tmp_path / 'x.png', 0, 1), frames
  )


def test_mp4_says_its_colours_and_starts_with_its_index(tmp_path):
  video.write_video(tmp_path / 'x.mp4', colourful(5), 24.0)
  at = boxes((tmp_path / 'x.mp4').read_bytes())
  assert at[b'moov'] < at[b'mdat']
  with av.open(tmp_path / 'x.mp4') as container:
    codec = container.streams.video[0].codec_context
    assert (codec.name, codec.pix_fmt) == ('h264', 'yuv420p')
    assert (codec.colorspace, codec.color_range) == (1, 1)
    assert (codec.color_primaries, codec.color_trc) == (1, 1)


WRITE = """
import sys
import numpy as np
from sora_jax.data import video
t, y, x = np.mgrid[:48, :128, :192]
frames = np.stack([2 * x + 5 * t, 3 * y + t, x + y + 9 * t], axis=-1)
frames = (frames % 256).astype(np.uint8)
for suffix in ('mp4', 'gif', 'webp'):
  video.write_video(f'{sys.argv[1]}/x.{suffix}', frames, 24.0)
for suffix in ('png', 'jpg'):
  video.write_video(f'{sys.argv[1]}/x.{suffix}', frames[:1], 24.0)
"""


def test_equal_frames_give_equal_bytes_in_two_processes(tmp_path):
  digests = []
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
    subprocess.run(
      [sys.executable, '-c', WRITE, tmp_path / name],
      check=True,
      cwd=pathlib.Path(__file__).parents[1],
    )
    digests.append({
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in (tmp_path / name).iterdir()
    })
  assert digests[0] == digests[1]
  assert len(digests[0]) == 5


def test_what_a_type_cannot_hold_is_refused(tmp_path):
  with pytest.raises(ValueError, match='32x16.*34x18'):
    video.write_video(tmp_path / 'x.mp4', colourful(5, 33, 17), 24.0)
  with pytest.raises(ValueError, match='.mp4, .gif or .webp'):
    video.write_video(tmp_path / 'x.png', colourful(5), 24.0)
  with pytest.raises(ValueError, match='.mp4, .gif, .webp, .png'):
    video.write_video(tmp_path / 'x.mkv', colourful(5), 24.0)
  with pytest.raises(ValueError, match='no frames'):
    video.write_video(tmp_path / 'x.mp4', colourful(0), 24.0)
  with pytest.raises(ValueError, match='fps=0'):
    video.write_video(tmp_path / 'x.mp4', colourful(5), 0.0)
  assert not list(tmp_path.iterdir())


FILL = """
import resource, sys
import numpy as np
from sora_jax.data import encoders, video
frames = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), np.uint8)
data = encoders.ENCODERS[sys.argv[1][-4:]](iter(frames), 24.0)
encoders.ENCODERS[sys.argv[1][-4:]] = lambda frames, fps: data
resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, len(data) // 2))
try:
  video.write_video(sys.argv[1], frames, 24.0)
except OSError as error:
  print(error)
"""


@pytest.mark.parametrize('suffix', ['mp4', 'gif'])
def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path, suffix):
  path = tmp_path / f'x.{suffix}'
  path.write_bytes(b'old')
  done = subprocess.run(
    [sys.executable, '-c', FILL, path],
    check=True,
    text=True,
    capture_output=True,
    cwd=pathlib.Path(__file__).parents[1],
    preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
  )
  assert str(path) in done.stdout
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == [path.name]


def test_a_missing_folder_is_an_oserror_with_the_path(tmp_path):
  with pytest.raises(OSError, match='x.mp4'):
    video.write_video(tmp_path / 'none' / 'x.mp4', colourful(2), 24.0)


@pytest.mark.parametrize(
  'name', ['car-detection.mp4', 'tears-of-steel-battle-clip-medium.webm']
)
def test_real_clips_read_alike_from_any_start(name):
  if not (CLIPS / name).exists():
    pytest.skip(f'{CLIPS / name} is not here')
  whole_start = video.read_frames(CLIPS / name, 0, 66)
  for start in (1, 59, 61):
    got = video.read_frames(CLIPS / name, start, 4)
    np.testing.assert_array_equal(got, whole_start[start : start + 4])


def test_a_gif_that_is_cut_anywhere_is_told_in_one_line(tmp_path):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 255, (4, 16, 16, 3), np.uint8)
  whole = video.encode('a.gif', [frames], 10.0)
  cuts = range(10, len(whole) - 1, 7)
  assert len(cuts) > 100
  for cut in cuts:
    path = tmp_path / 'cut.gif'
    path.write_bytes(whole[:cut])
    try:
      video.read_info(path)  # what is there of it may be whole
    except video.BrokenVideo as error:
      assert '\n' not in str(error)
