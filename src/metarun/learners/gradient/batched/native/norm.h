// Batch norm, 2 x 2 max-pooling and ReLU, and two derivatives.
//
// out = relu(a p + b) with a = gamma r, b = beta - a mu, r = 1 / sqrt(variance + eps), of the pooled entries p: those
// of the windows where gamma y is largest. With h = g where ReLU is active: dbeta = sum h, dgamma = sum h p^, and
// dy = place(a h) - a / n (dbeta + dgamma y^), where y^ = (y - mu) r and n entries share a channel.
#pragma once

#include "windows.h"

template <class S, int K, class Y>
static void forward_task(const Y& y, const S* gamma, const Affine<S>& affine, S* out, S* pooled, uint8_t* index,
    const Norm& s) {
  const int64_t C = s.channels, row = s.width * C, places[4] = {0, C, row, row + C};
  const S* from = nullptr;
  auto window = [&](int64_t first, int64_t to) {
    for (int64_t c = 0; c < C; c += Of<S>::length) {
      Vector<S> best = load(from + first * C + c);
      if constexpr (K > 1) {
        const Vector<S> of = load(gamma + c);
        Mask<S> place = {};
        for (int k = 1; k < K; k++) {
          const Vector<S> other = load(from + first * C + places[k] + c);
          const Mask<S> better = of < 0 ? other < best : other > best;
          best = better ? other : best;
          place = better ? Mask<S>{} + k : place;
        }
        store_places<S>(index + to * C + c, place);
      }
      if (pooled) store(pooled + to * C + c, best);
      const Vector<S> v = affine(best, c);
      store(out + to * C + c, s.relu ? (v < 0 ? Vector<S>{} : v) : v);  // NaN stays
    }
  };
  each_window<K>(s, [&](int64_t i, int64_t h, int64_t rows) { from = y.rows(i, h, rows); }, window, [](int64_t) {},
      nothing);
}

// What the derivatives of one task read besides y.
template <class S>
struct Saved {
  const S *g, *gamma, *beta, *pooled, *mu, *r;
  const uint8_t* index;
  Saved<S> of(int64_t t, const Norm& s) const {
    const int64_t C = s.channels, left = s.left() * C;
    return {g + t * left, gamma + t * C, beta + t * C, pooled + t * left, mu + t * C, r + t * C, index + t * left};
  }
};

template <class S>
static inline Vector<S> where_active(Vector<S> g, Vector<S> out, const Norm& s) {
  return s.relu ? (out <= 0 ? Vector<S>{} : g) : g;
}

template <class S, int K, class Y, class To, class End>
static void backward_task(const Saved<S>& of, const Y& y, To to, S* dgamma, S* dbeta, const Norm& s, End end) {
  static thread_local Scratch<double> scratch;
  static thread_local Scratch<S> affines, lines;
  constexpr int n = Of<S>::length;
  const int64_t C = s.channels, row = s.width * C, offsets[4] = {0, C, row, row + C};
  const Affine<S> affine(affines, of.gamma, of.beta, of.mu, of.r, C);
  Sums<S, 2> sums(scratch, C);
  for (int64_t p = 0; p < s.left(); p++, sums.next())
    for (int64_t c = 0; c < C; c += n) {
      const Vector<S> v = load(of.pooled + p * C + c), h = where_active<S>(load(of.g + p * C + c), affine(v, c), s);
      sums.add(0, c, h);
      sums.add(1, c, h * (v - load(of.mu + c)) * load(of.r + c));
    }
  sums.flush();
  S* slope = lines.of(2 * C);
  S* shift = slope + C;
  for (int64_t c = 0; c < C; c++) {
    dbeta[c] = sums.of(0, c);
    dgamma[c] = sums.of(1, c);
    const double a = affine.a[c], r = of.r[c], entries = s.rows();
    slope[c] = -a * dgamma[c] * r / entries;
    shift[c] = a * (dgamma[c] * r * of.mu[c] - dbeta[c]) / entries;
  }
  const S* from = nullptr;
  S* dy = nullptr;
  auto line_at = [&](int64_t at, int64_t c) { return load(from + at) * load(slope + c) + load(shift + c); };
  auto begin = [&](int64_t i, int64_t h, int64_t rows) { from = y.rows(i, h, rows), dy = to(i, h); };
  auto window = [&](int64_t first, int64_t p) {
    for (int64_t c = 0; c < C; c += n) {
      const Vector<S> v = load(of.pooled + p * C + c);
      const Vector<S> h = where_active<S>(load(of.g + p * C + c), affine(v, c), s) * load(affine.a + c);
      Mask<S> place = {};
      if constexpr (K > 1) place = places<S>(of.index + p * C + c);
      for (int k = 0; k < K; k++) {
        const int64_t at = first * C + offsets[k] + c;
        store(dy + at, line_at(at, c) + (place == k ? h : Vector<S>{}));
      }
    }
  };
  auto single = [&](int64_t p) {
    for (int64_t c = 0; c < C; c += n) store(dy + p * C + c, line_at(p * C + c, c));
  };
  each_window<K>(s, begin, window, single, end);
}

// Cotangents u of dy, u_gamma of dgamma and u_beta of dbeta, and dgamma and dbeta themselves.
template <class S>
struct Cotangents {
  const S *u_gamma, *u_beta, *dgamma, *dbeta;
  Cotangents<S> of(int64_t t, const Norm& s) const {
    const int64_t at = t * s.channels;
    return {u_gamma + at, u_beta + at, dgamma + at, dbeta + at};
  }
};

// Maps cotangents to those of g, y and gamma.
template <class S, int K, class Y, class U, class To, class End>
static void twice_task(const Saved<S>& of, const Cotangents<S>& by, const Y& y, const U& u, To to, S* of_g,
    S* of_gamma, const Norm& s, End end) {
  static thread_local Scratch<double> scratch;
  static thread_local Scratch<S> affines, lines;
  constexpr int n = Of<S>::length;
  const int64_t C = s.channels, row = s.width * C, offsets[4] = {0, C, row, row + C};
  const Affine<S> affine(affines, of.gamma, of.beta, of.mu, of.r, C);
  const S *y_rows = nullptr, *u_rows = nullptr;
  S* of_y = nullptr;
  auto begin = [&](int64_t i, int64_t h, int64_t rows) { y_rows = y.rows(i, h, rows), u_rows = u.rows(i, h, rows); };
  Sums<S, 3> sums(scratch, C);  // of u, u y^ and, over the pooled entries, u h
  auto add = [&](int64_t at, int64_t c) {
    const Vector<S> v = load(u_rows + at);
    sums.add(0, c, v);
    sums.add(1, c, v * (load(y_rows + at) - load(of.mu + c)) * load(of.r + c));
    return v;
  };
  auto pick = [&](const Vector<S>* v, Mask<S> place) {
    Vector<S> picked = v[0];
    for (int k = 1; k < K; k++) picked = place == k ? v[k] : picked;
    return picked;
  };
  auto sum_window = [&](int64_t first, int64_t from) {
    for (int64_t c = 0; c < C; c += n) {
      Vector<S> v[K];
      for (int k = 0; k < K; k++) v[k] = add(first * C + offsets[k] + c, c);
      Mask<S> place = {};
      if constexpr (K > 1) place = places<S>(of.index + from * C + c);
      const Vector<S> p = load(of.pooled + from * C + c);
      sums.add(2, c, pick(v, place) * where_active<S>(load(of.g + from * C + c), affine(p, c), s));
    }
    sums.next();
  };
  auto sum_single = [&](int64_t p) {
    for (int64_t c = 0; c < C; c += n) add(p * C + c, c);
  };
  each_window<K>(s, begin, sum_window, sum_single, nothing);
  sums.flush();
  S* slope = lines.of(5 * C);
  S *shift = slope + C, *scale = shift + C, *offset = scale + C, *of_u = offset + C;
  for (int64_t c = 0; c < C; c++) {
    const double a = affine.a[c], r = of.r[c], mu = of.mu[c], entries = s.rows();
    const double u_sum = sums.of(0, c), u_yhat = sums.of(1, c);
    // <u, dy> = a inner, in terms of a, h, dgamma, dbeta and y^
    const double inner = sums.of(2, c) - (by.dbeta[c] * u_sum + by.dgamma[c] * u_yhat) / entries;
    const double of_dbeta = by.u_beta[c] - a * u_sum / entries, of_dgamma = by.u_gamma[c] - a * u_yhat / entries;
    // dy depends on y^ directly (weight t), through the pooled entries in dgamma, and through mu and r
    const double t = -a * by.dgamma[c] / entries;
    scale[c] = of_dgamma * r;
    offset[c] = of_dbeta - of_dgamma * r * mu;
    slope[c] = -(a * inner + t * u_yhat + of_dgamma * by.dgamma[c]) * r * r / entries;
    shift[c] = -(t * u_sum + of_dgamma * by.dbeta[c]) * r / entries - slope[c] * mu;
    of_u[c] = t * r;
    of_gamma[c] = r * inner;
  }
  auto line_at = [&](int64_t at, int64_t c, Vector<S> v) {
    return load(y_rows + at) * load(slope + c) + load(shift + c) + v * load(of_u + c);
  };
  auto begin_again = [&](int64_t i, int64_t h, int64_t rows) { begin(i, h, rows), of_y = to(i, h); };
  auto window = [&](int64_t first, int64_t from) {
    for (int64_t c = 0; c < C; c += n) {
      const Vector<S> p = load(of.pooled + from * C + c), out = affine(p, c);
      const Vector<S> h = where_active<S>(load(of.g + from * C + c), out, s) * load(scale + c);
      Mask<S> place = {};
      if constexpr (K > 1) place = places<S>(of.index + from * C + c);
      Vector<S> v[K];
      for (int k = 0; k < K; k++) {
        const int64_t at = first * C + offsets[k] + c;
        v[k] = load(u_rows + at);
        store(of_y + at, line_at(at, c, v[k]) + (place == k ? h : Vector<S>{}));
      }
      const Vector<S> of_h = p * load(scale + c) + load(offset + c) + pick(v, place) * load(affine.a + c);
      store(of_g + from * C + c, where_active<S>(of_h, out, s));
    }
  };
  auto single = [&](int64_t p) {
    for (int64_t c = 0; c < C; c += n) store(of_y + p * C + c, line_at(p * C + c, c, load(u_rows + p * C + c)));
  };
  each_window<K>(s, begin_again, window, single, end);
}

template <class S>
static void norm(const S* y, const S* gamma, const S* beta, S* out, S* pooled, uint8_t* index, S* mu, S* r,
    const Norm& s) {
  static thread_local Scratch<double> sums;
  static thread_local Scratch<S> scratch;
  const int64_t C = s.channels, full = s.rows() * C, left = s.left() * C;
  for (int64_t t = 0; t < s.tasks; t++) {
    const Stored<const S> of{y + t * full, s};
    statistics(of, s, mu + t * C, r + t * C, sums.of(2 * C));
    const Affine<S> affine(scratch, gamma + t * C, beta + t * C, mu + t * C, r + t * C, C);
    if (s.pool)
      forward_task<S, 4>(of, gamma + t * C, affine, out + t * left, pooled + t * left, index + t * left, s);
    else
      forward_task<S, 1>(of, gamma + t * C, affine, out + t * left, static_cast<S*>(nullptr), nullptr, s);
  }
}

template <class S>
static void norm_backward(const Saved<S>& saved, const S* y, S* dy, S* dgamma, S* dbeta, const Norm& s) {
  const int64_t C = s.channels, full = s.rows() * C;
  for (int64_t t = 0; t < s.tasks; t++) {
    const Stored<const S> of{y + t * full, s};
    const Stored<S> result{dy + t * full, s};
    auto to = [&](int64_t i, int64_t h) { return result.rows(i, h, 2); };
    if (s.pool)
      backward_task<S, 4>(saved.of(t, s), of, to, dgamma + t * C, dbeta + t * C, s, nothing);
    else
      backward_task<S, 1>(saved.of(t, s), of, to, dgamma + t * C, dbeta + t * C, s, nothing);
  }
}

template <class S>
static void norm_twice(const Saved<S>& saved, const Cotangents<S>& by, const S* y, const S* u, S* of_g, S* of_y,
    S* of_gamma, const Norm& s) {
  const int64_t C = s.channels, full = s.rows() * C, left = s.left() * C;
  for (int64_t t = 0; t < s.tasks; t++) {
    const Stored<const S> of{y + t * full, s}, cotangent{u + t * full, s};
    const Stored<S> result{of_y + t * full, s};
    auto to = [&](int64_t i, int64_t h) { return result.rows(i, h, 2); };
    if (s.pool)
      twice_task<S, 4>(saved.of(t, s), by.of(t, s), of, cotangent, to, of_g + t * left, of_gamma + t * C, s, nothing);
    else
      twice_task<S, 1>(saved.of(t, s), by.of(t, s), of, cotangent, to, of_g + t * left, of_gamma + t * C, s, nothing);
  }
}
