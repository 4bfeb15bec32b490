// Convolution with 3 x 3 weights, stride 1 and a border of one zero, and the derivative of its weights.
#pragma once

#include "products.h"

// One image [H, W, C] into [H + 2, W + 2, C] with zeros around.
template <class S>
static void pad(const S* x, S* padded, int64_t height, int64_t width, int64_t channels) {
  const int64_t row = (width + 2) * channels;
  std::memset(padded, 0, row * sizeof(S));
  for (int64_t h = 0; h < height; h++) {
    S* to = padded + (h + 1) * row;
    std::memset(to, 0, channels * sizeof(S));
    std::memcpy(to + channels, x + h * width * channels, width * channels * sizeof(S));
    std::memset(to + (width + 1) * channels, 0, channels * sizeof(S));
  }
  std::memset(padded + (height + 1) * row, 0, row * sizeof(S));
}

// A narrow image, several rows at once.
template <class S>
static void narrow(const Shape& s, const S* padded, int64_t row, int64_t in, const S* w, int64_t out, S* y) {
  constexpr int n = Of<S>::length;
  for (int64_t o = 0; o < out; o += 2 * n)
    for (int64_t h = 0, done = 0; h < s.height; h += done ? done : 1) {
      const S* source = padded + h * row;
      S* to = y + h * s.width * out + o;
      if (o + 2 * n <= out) {
        done = rows_of<S, 2>(s.width, s.height - h, source, row, in, 3 * in, w + o, out, to);
        if (!done) tile_of<S, 3, 2>(s.width, source, row, in, 3 * in, w + o, out, to);
      } else {
        done = rows_of<S, 1>(s.width, s.height - h, source, row, in, 3 * in, w + o, out, to);
        if (!done) tile_of<S, 3, 1>(s.width, source, row, in, 3 * in, w + o, out, to);
      }
    }
}

// The images of one task: x [N, H, W, in], w [3, 3, in, out], y [N, H, W, out]. In a padded row the entries of three
// neighbouring pixels lie side by side, so kw and the channel are one index.
template <class S>
static void direct(const S* x, const S* w, S* y, const Shape& s, int64_t in, int64_t out) {
  static thread_local Scratch<S> scratch;
  const int64_t row = (s.width + 2) * in;
  S* padded = scratch.of((s.height + 2) * row);
  for (int64_t i = 0; i < s.images; i++) {
    pad(x + i * s.height * s.width * in, padded, s.height, s.width, in);
    S* to = y + i * s.height * s.width * out;
    if (s.width <= PIXELS / 2)
      narrow(s, padded, row, in, w, out, to);
    else
      for (int64_t h = 0; h < s.height; h++)
        line<S, 3>(s.width, padded + h * row, row, in, 3 * in, w, out, to + h * s.width * out);
  }
}

// x [N, H, W, in], g [N, H, W, out], gw [3, 3, in, out].
template <class S>
static void direct_weights(const S* x, const S* g, S* gw, const Shape& s, int64_t in, int64_t out) {
  static thread_local Scratch<S> scratch;
  const int64_t row = (s.width + 2) * in, image = (s.height + 2) * row, pixels = s.height * s.width;
  // Images, or rows of one, whose gradients stay in the first cache while all weights pass by.
  const int64_t fitting = (16 << 10) / (s.width * out * sizeof(S)), most = fitting / s.height;
  const int64_t together = most < 1 ? 1 : most < s.images ? most : s.images;
  const int64_t block = fitting < 1 ? 1 : fitting < s.height ? fitting : s.height;
  S* padded = scratch.of(together * image);
  std::memset(gw, 0, 9 * in * out * sizeof(S));
  for (int64_t first = 0; first < s.images; first += together) {
    const int64_t images = first + together < s.images ? together : s.images - first;
    for (int64_t i = 0; i < images; i++)
      pad(x + (first + i) * pixels * in, padded + i * image, s.height, s.width, in);
    for (int64_t h = 0; h < s.height; h += block) {
      const Pixels at = {images, h + block < s.height ? block : s.height - h, s.width, image, row, in};
      for (int kh = 0; kh < 3; kh++)
        outer_all(padded + (h + kh) * row, at, 3 * in, g + (first * s.height + h) * s.width * out, out,
            gw + kh * 3 * in * out);
    }
  }
}
