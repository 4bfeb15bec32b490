// The same convolution with fewer operations.
#pragma once

#include "products.h"

// Winograd's F(2 x 2, 3 x 3) (Lavin & Gray 2016, arXiv:1509.09308): y = A' [(G w G') * (B' x B)] A for each tile of
// 2 x 2 outputs, of a patch x of 4 x 4 inputs, with 16 products of matrices in the place of 36. The entries of the
// 4 x 4 patches are `points`. In exact arithmetic it is the same function, and so are its derivatives below.

constexpr int POINTS = 16, TILES = 96;  // as many tiles as this share one reading of the weights

// Where it takes clearly fewer operations, for the transformations; tiles cover odd images by more than they have.
// Weights larger than the second cache are read once for many images, so there few fewer are enough.
static inline bool suits_winograd(const Shape& s, int64_t in, int64_t out) {
  const int64_t tiles = ((s.height + 1) / 2) * ((s.width + 1) / 2), factor = 9 * in * out > (1 << 17) ? 9 : 14;
  return in >= 16 && out >= 16 && factor * POINTS * tiles < 90 * s.height * s.width;
}

struct Tiles {
  int64_t high, wide, images;  // images whose tiles are transformed together
  explicit Tiles(const Shape& s) : high((s.height + 1) / 2), wide((s.width + 1) / 2) {
    const int64_t together = TILES / (high * wide) > 1 ? TILES / (high * wide) : 1;
    images = together < s.images ? together : s.images;
  }
  int64_t count() const { return high * wide * images; }
};

// u [points, in, out] = G w G'.
template <class S>
static void transform_weights(const S* w, S* u, int64_t size) {
  constexpr int n = Of<S>::length;
  const S half = 0.5;
  for (int64_t at = 0; at < size; at += n) {
    Vector<S> column[4][3];
    for (int k = 0; k < 3; k++) {
      const Vector<S> a = load(w + k * size + at), b = load(w + (3 + k) * size + at), c = load(w + (6 + k) * size + at);
      column[0][k] = a;
      column[1][k] = half * (a + b + c);
      column[2][k] = half * (a - b + c);
      column[3][k] = c;
    }
    for (int i = 0; i < 4; i++) {
      const Vector<S> a = column[i][0], b = column[i][1], c = column[i][2];
      store(u + (4 * i + 0) * size + at, a);
      store(u + (4 * i + 1) * size + at, half * (a + b + c));
      store(u + (4 * i + 2) * size + at, half * (a - b + c));
      store(u + (4 * i + 3) * size + at, c);
    }
  }
}

// gw [3, 3, in, out] = G' u G.
template <class S>
static void transform_back_weights(const S* u, S* gw, int64_t size) {
  constexpr int n = Of<S>::length;
  const S half = 0.5;
  for (int64_t at = 0; at < size; at += n) {
    Vector<S> row[3][4];
    for (int k = 0; k < 4; k++) {
      const Vector<S> a = load(u + k * size + at), b = load(u + (4 + k) * size + at), c = load(u + (8 + k) * size + at);
      row[0][k] = a + half * (b + c);
      row[1][k] = half * (b - c);
      row[2][k] = load(u + (12 + k) * size + at) + half * (b + c);
    }
    for (int i = 0; i < 3; i++) {
      store(gw + (3 * i + 0) * size + at, row[i][0] + half * (row[i][1] + row[i][2]));
      store(gw + (3 * i + 1) * size + at, half * (row[i][1] - row[i][2]));
      store(gw + (3 * i + 2) * size + at, row[i][3] + half * (row[i][1] + row[i][2]));
    }
  }
}

template <class S>
static inline Vector<S> pixel_or_zero(const S* x, int64_t h, int64_t w, const Shape& s, int64_t channels) {
  if (h < 0 || w < 0 || h >= s.height || w >= s.width) return Vector<S>{};
  return load(x + (h * s.width + w) * channels);
}

// v [points, tiles, channels] = B' x B of some images.
template <class S>
static void transform_images(const S* x, S* v, const Shape& s, const Tiles& t, int64_t images, int64_t channels) {
  constexpr int n = Of<S>::length;
  const int64_t points = t.count() * channels;
  S* to = v;
  for (int64_t i = 0; i < images; i++, x += s.height * s.width * channels)
    for (int64_t h = -1; h < s.height - 1 + (s.height & 1); h += 2)
      for (int64_t w = -1; w < s.width - 1 + (s.width & 1); w += 2, to += channels)
        for (int64_t c = 0; c < channels; c += n) {
          Vector<S> d[4][4];
          for (int k = 0; k < 4; k++) {
            Vector<S> p[4];
            for (int l = 0; l < 4; l++) p[l] = pixel_or_zero(x + c, h + l, w + k, s, channels);
            d[0][k] = p[0] - p[2];
            d[1][k] = p[1] + p[2];
            d[2][k] = p[2] - p[1];
            d[3][k] = p[1] - p[3];
          }
          for (int l = 0; l < 4; l++) {
            S* place = to + 4 * l * points + c;
            store(place, d[l][0] - d[l][2]);
            store(place + points, d[l][1] + d[l][2]);
            store(place + 2 * points, d[l][2] - d[l][1]);
            store(place + 3 * points, d[l][1] - d[l][3]);
          }
        }
}

// y = A' m A of some images, of m [points, tiles, channels].
template <class S>
static void transform_outputs(const S* m, S* y, const Shape& s, const Tiles& t, int64_t images, int64_t channels) {
  constexpr int n = Of<S>::length;
  const int64_t points = t.count() * channels;
  const S* from = m;
  for (int64_t i = 0; i < images; i++, y += s.height * s.width * channels)
    for (int64_t h = 0; h < s.height; h += 2)
      for (int64_t w = 0; w < s.width; w += 2, from += channels)
        for (int64_t c = 0; c < channels; c += n) {
          Vector<S> d[2][4];
          for (int k = 0; k < 4; k++) {
            const S* place = from + k * points + c;
            const Vector<S> b = load(place + 4 * points), e = load(place + 8 * points);
            d[0][k] = load(place) + b + e;
            d[1][k] = b - e - load(place + 12 * points);
          }
          for (int l = 0; l < 2 && h + l < s.height; l++) {
            S* to = y + ((h + l) * s.width + w) * channels + c;
            store(to, d[l][0] + d[l][1] + d[l][2]);
            if (w + 1 < s.width) store(to + channels, d[l][1] - d[l][2] - d[l][3]);
          }
        }
}

// m [points, tiles, channels] = A g A' of some images: the derivative of the function above.
template <class S>
static void transform_gradients(const S* g, S* m, const Shape& s, const Tiles& t, int64_t images, int64_t channels) {
  constexpr int n = Of<S>::length;
  const int64_t points = t.count() * channels;
  S* to = m;
  for (int64_t i = 0; i < images; i++, g += s.height * s.width * channels)
    for (int64_t h = 0; h < s.height; h += 2)
      for (int64_t w = 0; w < s.width; w += 2, to += channels)
        for (int64_t c = 0; c < channels; c += n) {
          Vector<S> d[4][2];
          for (int k = 0; k < 2; k++) {
            const Vector<S> a = pixel_or_zero(g + c, h, w + k, s, channels);
            const Vector<S> b = pixel_or_zero(g + c, h + 1, w + k, s, channels);
            d[0][k] = a;
            d[1][k] = a + b;
            d[2][k] = a - b;
            d[3][k] = -b;
          }
          for (int l = 0; l < 4; l++) {
            S* place = to + 4 * l * points + c;
            store(place, d[l][0]);
            store(place + points, d[l][0] + d[l][1]);
            store(place + 2 * points, d[l][0] - d[l][1]);
            store(place + 3 * points, -d[l][1]);
          }
        }
}

template <class S>
static void winograd(const S* x, const S* w, S* y, const Shape& s, int64_t in, int64_t out) {
  static thread_local Scratch<S> scratch;
  const Tiles t(s);
  const int64_t pixels = s.height * s.width, size = in * out, v_size = t.count() * in, m_size = t.count() * out;
  S* u = scratch.of(POINTS * (size + v_size + m_size));
  S *v = u + POINTS * size, *m = v + POINTS * v_size;
  transform_weights(w, u, size);
  for (int64_t first = 0; first < s.images; first += t.images) {
    const int64_t images = first + t.images < s.images ? t.images : s.images - first;
    transform_images(x + first * pixels * in, v, s, t, images, in);
    for (int k = 0; k < POINTS; k++)
      line<S, 1>(t.high * t.wide * images, v + k * v_size, 0, in, in, u + k * size, out, m + k * m_size);
    transform_outputs(m, y + first * pixels * out, s, t, images, out);
  }
}

template <class S>
static void winograd_weights(const S* x, const S* g, S* gw, const Shape& s, int64_t in, int64_t out) {
  static thread_local Scratch<S> scratch;
  const Tiles t(s);
  const int64_t pixels = s.height * s.width, size = in * out, v_size = t.count() * in, m_size = t.count() * out;
  S* u = scratch.of(POINTS * (size + v_size + m_size));
  S *v = u + POINTS * size, *m = v + POINTS * v_size;
  std::memset(u, 0, POINTS * size * sizeof(S));
  for (int64_t first = 0; first < s.images; first += t.images) {
    const int64_t images = first + t.images < s.images ? t.images : s.images - first;
    transform_images(x + first * pixels * in, v, s, t, images, in);
    transform_gradients(g + first * pixels * out, m, s, t, images, out);
    for (int k = 0; k < POINTS; k++)
      outer_all(v + k * v_size, Pixels{1, 1, t.high * t.wide * images, 0, 0, in}, in, m + k * m_size, out, u + k * size);
  }
  transform_back_weights(u, gw, size);
}
