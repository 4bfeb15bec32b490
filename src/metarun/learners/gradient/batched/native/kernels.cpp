// Convolution, batch norm, max-pooling and ReLU of T networks at once, with the derivatives of a meta-gradient.
//
// Tensors are dense and task-major, with channels last: images [T, N, H, W, C], weights [T, 3, 3, C, O]. A vector
// holds channels of one pixel, so every inner loop is a fused multiply-add of whole registers: 14 pixels times 2
// vectors stay in the 32 registers of AVX-512, 6 times 2 in the 16 of AVX2. Numbers of channels on the vector side
// are multiples of its length. Each function computes on the calling thread.
#include "convolution.h"
#include "first.h"

// The names that are looked up.

#define NAMES(S, PREFIX)                                                                                              \
  extern "C" void PREFIX##_convolution(const S* x, const S* w, int64_t w_stride, S* y, const Shape* s) {              \
    convolution(x, w, w_stride, y, *s);                                                                               \
  }                                                                                                                   \
  extern "C" void PREFIX##_convolution_images(const S* g, const S* w, int64_t w_stride, S* gx, const Shape* s) {      \
    convolution_images(g, w, w_stride, gx, *s);                                                                       \
  }                                                                                                                   \
  extern "C" void PREFIX##_convolution_weights(const S* x, const S* g, S* gw, const Shape* s) {                       \
    convolution_weights(x, g, gw, *s);                                                                                \
  }                                                                                                                   \
  extern "C" void PREFIX##_norm(const S* y, const S* gamma, const S* beta, S* out, S* pooled, uint8_t* index, S* mu,  \
      S* r, const Norm* s) {                                                                                          \
    norm(y, gamma, beta, out, pooled, index, mu, r, *s);                                                              \
  }                                                                                                                   \
  extern "C" void PREFIX##_norm_backward(                                                                             \
      const Saved<S>* saved, const S* y, S* dy, S* dgamma, S* dbeta, const Norm* s) {                                 \
    norm_backward(*saved, y, dy, dgamma, dbeta, *s);                                                                  \
  }                                                                                                                   \
  extern "C" void PREFIX##_norm_twice(const Saved<S>* saved, const Cotangents<S>* by, const S* y, const S* u,         \
      S* of_g, S* of_y, S* of_gamma, const Norm* s) {                                                                 \
    norm_twice(*saved, *by, y, u, of_g, of_y, of_gamma, *s);                                                          \
  }                                                                                                                   \
  extern "C" void PREFIX##_first(const S* x, const S* w, const S* gamma, const S* beta, S* out, S* pooled,            \
      uint8_t* index, S* mu, S* r, const First* f, const Norm* s) {                                                   \
    first(x, w, gamma, beta, out, pooled, index, mu, r, *f, *s);                                                      \
  }                                                                                                                   \
  extern "C" void PREFIX##_first_backward(const Saved<S>* saved, const S* x, const S* w, S* gw, S* dgamma, S* dbeta,  \
      const First* f, const Norm* s) {                                                                                \
    first_backward(*saved, x, w, gw, dgamma, dbeta, *f, *s);                                                          \
  }                                                                                                                   \
  extern "C" void PREFIX##_first_twice(const Saved<S>* saved, const Cotangents<S>* by, const S* x, const S* w,        \
      const S* u, S* of_g, S* of_w, S* of_gamma, const First* f, const Norm* s) {                                     \
    first_twice(*saved, *by, x, w, u, of_g, of_w, of_gamma, *f, *s);                                                  \
  }
NAMES(float, f32)
NAMES(double, f64)
