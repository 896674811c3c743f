// What a decoding step of a small model computes; native.py compiles it. Numbers are float or bfloat16,
// computed in float and rounded once. What becomes of a row depends on nothing else. All tensors are
// contiguous.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512BF16__)
#define HAS_PRODUCTS 1
#include <immintrin.h>
#else
#define HAS_PRODUCTS 0
#endif

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float wide(float number) { return number; }

inline float wide(bfloat16 number) {
    uint32_t bits = uint32_t(number.bits) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

inline void store(float* place, float number) { *place = number; }

inline void store(bfloat16* place, float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    place->bits = uint16_t(number == number ? rounded : 0x7fc0);
}

template <class T>
inline float rounded(float number) {
    T stored;
    store(&stored, number);
    return wide(stored);
}

// e to the power of a number not above 0, to 2e-7 of itself (Cephes' polynomial); a loop of it can be
// vectorised.
inline float power(float number) {
    float above = number < -87.0f ? -87.0f : number;
    float whole = std::floor(above * 1.44269504f + 0.5f);
    float rest = above - whole * 0.693359375f + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f * rest + 1.3981999507e-3f;
    sum = (sum * rest + 8.3334519073e-3f) * rest + 4.1665795894e-2f;
    sum = (sum * rest + 1.6666665459e-1f) * rest + 0.5f;
    int32_t bits = (int32_t(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return number < -87.0f ? 0.0f : (sum * rest * rest + rest + 1.0f) * scale;
}

inline float sigmoid(float number) { return 1.0f / (1.0f + std::exp(-number)); }

template <class T>
inline void widen(const T* from, float* to, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) to[i] = wide(from[i]);
}

inline float dot(const float* one, const float* other, int64_t count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) sum += one[i] * other[i];
    return sum;
}

inline float inverse_rms(const float* numbers, int64_t count, float eps) {
    return 1.0f / std::sqrt(dot(numbers, numbers, count) / count + eps);
}

template <class T>
void norm(const T* x, const float* weight, T* out, int64_t rows, int64_t size, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > 16384)
    for (int64_t row = 0; row < rows; row++) {
        static thread_local std::vector<float> buffer;
        buffer.resize(size);
        float* numbers = buffer.data();
        widen(x + row * size, numbers, size);
        float scale = inverse_rms(numbers, size, eps);
        T* to = out + row * size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) store(to + i, numbers[i] * scale * weight[i]);
    }
}

#if HAS_PRODUCTS
#include "products.h"
#endif

struct Attention {
    int64_t tokens, rows;  // that are kept; the first of them that attend
    int64_t heads, groups, size, page;
    int64_t values;   // numbers of a layer's keys, behind which its values lie
    int64_t longest;  // pages
    int64_t paired;   // whether neighbours turn together; else a head's halves
    int64_t threads;
    float scaling, eps;
    const int64_t* lines;      // [tokens]: of the first key/value head, in lines of a head's size
    const int64_t* lengths;    // [rows]: tokens to look at
    const int64_t* tables;     // [rows, longest]: pages in order
    const float *cosine, *sine;  // [tokens, size / 2]
};

// Normalise and turn one head in place.
template <class T>
void turn(T* head, const float* weight, const float* cosine, const float* sine, const Attention& a,
          float* numbers) {
    int64_t half = a.size / 2;
    widen(head, numbers, a.size);
    if (weight) {
        float scale = inverse_rms(numbers, a.size, a.eps);
        for (int64_t i = 0; i < a.size; i++) numbers[i] *= scale * weight[i];
    }
    int64_t step = a.paired ? 2 : 1, other = a.paired ? 1 : half;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float x = numbers[i * step], y = numbers[i * step + other];
        store(head + i * step, x * cosine[i] - y * sine[i]);
        store(head + i * step + other, y * cosine[i] + x * sine[i]);
    }
}

// Scores of one query, and sums of values by the softmax of them; pages of a multiple of 16 positions.
template <class T, int SIZE>
struct Wide {
    static const bool there = false;
    static void score(const float*, const T*, int64_t, float, float*) {}
    static void gather(const T*, const float*, int64_t, float*) {}
};

#if HAS_PRODUCTS
// Element i is the sum of the numbers of sums[i], for 16 of them.
inline __m512 totals(__m512* sums) {
    for (int i = 0; i < 8; i++)
        sums[i] = _mm512_add_ps(_mm512_unpacklo_ps(sums[2 * i], sums[2 * i + 1]),
                                _mm512_unpackhi_ps(sums[2 * i], sums[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d one = _mm512_castps_pd(sums[2 * i]), other = _mm512_castps_pd(sums[2 * i + 1]);
        sums[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    for (int i = 0; i < 2; i++)
        sums[i] = _mm512_add_ps(_mm512_shuffle_f32x4(sums[2 * i], sums[2 * i + 1], 0x88),
                                _mm512_shuffle_f32x4(sums[2 * i], sums[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(sums[0], sums[1], 0x88),
                         _mm512_shuffle_f32x4(sums[0], sums[1], 0xdd));
}

template <class T, int SIZE>
struct WideOf {
    static const bool there = true;

    // Scores of a multiple of 16 keys; those beyond the last are written too and mean nothing.
    static void score(const float* query, const T* keys, int64_t count, float scaling, float* scores) {
        for (int64_t t = 0; t < count; t += 16, keys += 16 * SIZE) {
            __m512 sums[16];
            for (int key = 0; key < 16; key++) sums[key] = _mm512_setzero_ps();
            for (int i = 0; i < SIZE; i += 16) {
                __m512 own = _mm512_loadu_ps(query + i);
                for (int key = 0; key < 16; key++)
                    sums[key] = _mm512_fmadd_ps(own, Lane<T>::get(keys + key * SIZE + i, 0xffff), sums[key]);
            }
            _mm512_storeu_ps(scores + t, _mm512_mul_ps(totals(sums), _mm512_set1_ps(scaling)));
        }
    }

    static void gather(const T* values, const float* weights, int64_t count, float* sum) {
        __m512 sums[2][SIZE / 16];
        for (int i = 0; i < SIZE / 16; i++)
            sums[0][i] = _mm512_loadu_ps(sum + 16 * i), sums[1][i] = _mm512_setzero_ps();
        int64_t t = 0;
        for (; t + 2 <= count; t += 2, values += 2 * SIZE)
            for (int half = 0; half < 2; half++) {
                __m512 weight = _mm512_set1_ps(weights[t + half]);
                for (int i = 0; i < SIZE / 16; i++)
                    sums[half][i] = _mm512_fmadd_ps(
                        weight, Lane<T>::get(values + half * SIZE + 16 * i, 0xffff), sums[half][i]);
            }
        for (int i = 0; i < SIZE / 16; i++) {
            __m512 last = t < count ? Lane<T>::get(values + 16 * i, 0xffff) : _mm512_setzero_ps();
            sums[0][i] = _mm512_fmadd_ps(_mm512_set1_ps(t < count ? weights[t] : 0.0f), last, sums[0][i]);
            _mm512_storeu_ps(sum + 16 * i, _mm512_add_ps(sums[0][i], sums[1][i]));
        }
    }
};

template <class T> struct Wide<T, 32> : WideOf<T, 32> {};
template <class T> struct Wide<T, 64> : WideOf<T, 64> {};
template <class T> struct Wide<T, 128> : WideOf<T, 128> {};
#endif

// The queries of one row that share a key/value head; SIZE is a head's where it is known, and otherwise 0.
template <class T, int SIZE>
void attend_group(const T* queries, const T* kept, T* out, const int64_t* pages, int64_t length,
                  int64_t group, const Attention& a) {
    const int64_t size = SIZE ? SIZE : a.size, many = a.heads / a.groups;
    static thread_local std::vector<float> buffer;
    const int64_t room = length + a.page;  // whole pages are scored
    buffer.resize(many * (2 * size + room));
    float *query = buffer.data(), *sum = query + many * size, *scores = sum + many * size;
    const bool wide_enough = Wide<T, SIZE>::there && a.page % 16 == 0;
    widen(queries, query, many * size);
    std::memset(sum, 0, many * size * sizeof(float));
    for (int64_t start = 0; start < length; start += a.page) {
        const T* keys = kept + (pages[start / a.page] * a.groups + group) * a.page * size;
        int64_t end = std::min(start + a.page, length);
        if (wide_enough) {
            for (int64_t head = 0; head < many; head++)
                Wide<T, SIZE>::score(query + head * size, keys, end - start, a.scaling,
                                     scores + head * room + start);
            continue;
        }
        for (int64_t t = start; t < end; t++, keys += size)
            for (int64_t head = 0; head < many; head++) {
                const float* own = query + head * size;
                float score = 0;
#pragma omp simd reduction(+ : score)
                for (int64_t i = 0; i < size; i++) score += own[i] * wide(keys[i]);
                scores[head * room + t] = score * a.scaling;
            }
    }
    for (int64_t head = 0; head < many; head++) {
        float *own = scores + head * room, most = own[0], total = 0;
#pragma omp simd reduction(max : most)
        for (int64_t t = 0; t < length; t++) most = own[t] > most ? own[t] : most;
#pragma omp simd reduction(+ : total)
        for (int64_t t = 0; t < length; t++) total += own[t] = power(own[t] - most);
        for (int64_t t = 0; t < length; t++) own[t] /= total;
    }
    for (int64_t start = 0; start < length; start += a.page) {
        const T* values = kept + a.values + (pages[start / a.page] * a.groups + group) * a.page * size;
        int64_t end = std::min(start + a.page, length);
        for (int64_t head = 0; head < many; head++) {
            float *to = sum + head * size, *weights = scores + head * room;
            if (wide_enough) {
                Wide<T, SIZE>::gather(values, weights + start, end - start, to);
                continue;
            }
            const T* from = values;
            int64_t t = start;
            for (; t + 4 <= end; t += 4, from += 4 * size) {
                const float* w = weights + t;
#pragma omp simd
                for (int64_t i = 0; i < size; i++)
                    to[i] += w[0] * wide(from[i]) + w[1] * wide(from[i + size]) +
                             w[2] * wide(from[i + 2 * size]) + w[3] * wide(from[i + 3 * size]);
            }
            for (; t < end; t++, from += size)
#pragma omp simd
                for (int64_t i = 0; i < size; i++) to[i] += weights[t] * wide(from[i]);
        }
    }
    for (int64_t i = 0; i < many * size; i++) store(out + i, sum[i]);
}

// Normalise and turn queries and keys in place, keep keys and values, and attend to the rows' pages.
// qkv [tokens, heads + 2 groups, size]; kept [2, pages, groups, page, size]; norms [heads + groups, size] or
// none; out [rows, heads * size].
template <class T>
void attend(T* qkv, T* kept, const float* norms, T* out, const Attention& a) {
    int64_t both = a.heads + a.groups, width = (both + a.groups) * a.size, work = a.tokens * width;
    for (int64_t row = 0; row < a.rows; row++) work += a.lengths[row] * a.groups * a.size * 2;
#pragma omp parallel num_threads(a.threads) if (work > 32768)
    {
        static thread_local std::vector<float> buffer;
        buffer.resize(a.size);
#pragma omp for
        for (int64_t token = 0; token < a.tokens; token++) {
            T* own = qkv + token * width;
            const float *cosine = a.cosine + token * a.size / 2, *sine = a.sine + token * a.size / 2;
            for (int64_t head = 0; head < both; head++)
                turn(own + head * a.size, norms ? norms + head * a.size : nullptr, cosine, sine, a,
                     buffer.data());
            for (int64_t group = 0; group < a.groups; group++) {
                T* place = kept + (a.lines[token] + group * a.page) * a.size;
                std::memcpy(place, own + (a.heads + group) * a.size, a.size * sizeof(T));
                std::memcpy(place + a.values, own + (both + group) * a.size, a.size * sizeof(T));
            }
        }
        auto attending = a.size == 64    ? attend_group<T, 64>
                         : a.size == 128 ? attend_group<T, 128>
                         : a.size == 32  ? attend_group<T, 32>
                                         : attend_group<T, 0>;
        int64_t many = a.heads / a.groups * a.size;
#pragma omp for schedule(dynamic)
        for (int64_t one = 0; one < a.rows * a.groups; one++) {
            int64_t row = one / a.groups, group = one % a.groups;
            attending(qkv + row * width + group * many, kept, out + row * a.heads * a.size + group * many,
                      a.tables + row * a.longest, a.lengths[row], group, a);
        }
    }
}

struct Mixing {
    int64_t streams, size, logits, permutations, iterations;
    float eps, norm_eps;                // of the constraint, and of the norm before the projection
    const float *phi, *bias, *gate;     // [logits, streams * size], [logits], [logits]
    const float* matrices;              // [permutations, streams, streams], or none
};

// Normalise columns and rows in turn (mHC eq. 9); [n, n], destination first.
void sinkhorn(float* matrix, int64_t n, int64_t iterations, float eps) {
    for (int64_t column = 0; column < n; column++) {
        float most = matrix[column], total = 0;
        float* own = matrix + column;
        for (int64_t row = 1; row < n; row++) most = std::fmax(most, own[row * n]);
        for (int64_t row = 0; row < n; row++) total += own[row * n] = std::exp(own[row * n] - most);
        for (int64_t row = 0; row < n; row++) own[row * n] = own[row * n] / total + eps;
    }
    for (int64_t step = 0; step < 2 * iterations - 1; step++) {
        int64_t along = step % 2 ? n : 1, across = step % 2 ? 1 : n;
        for (int64_t line = 0; line < n; line++) {
            float total = eps, *first = matrix + line * across;
            for (int64_t i = 0; i < n; i++) total += first[i * along];
            float scale = 1.0f / total;
            for (int64_t i = 0; i < n; i++) first[i * along] *= scale;
        }
    }
}

// Mixtures of permutation matrices by softmax; [n, n].
void mix_permutations(const float* logits, float* matrix, int64_t n, const Mixing& m) {
    float most = logits[0], total = 0;
    for (int64_t i = 1; i < m.permutations; i++) most = std::fmax(most, logits[i]);
    std::memset(matrix, 0, n * n * sizeof(float));
    for (int64_t i = 0; i < m.permutations; i++) {
        float weight = std::exp(logits[i] - most);
        total += weight;
        const float* own = m.matrices + i * n * n;
        for (int64_t place = 0; place < n * n; place++) matrix[place] += weight * own[place];
    }
    for (int64_t place = 0; place < n * n; place++) matrix[place] /= total;
}

// Read a sublayer's input from the streams, [rows, n, size], and normalise it, to [rows, size]; writing is
// [rows, n, n + 1].
template <class T>
void read(const T* streams, const float* weight, T* out, float* writing, int64_t rows, float eps,
          const Mixing& m, int threads) {
    int64_t n = m.streams, flat = n * m.size;
#pragma omp parallel for num_threads(threads) if (rows * flat * m.logits > 65536)
    for (int64_t row = 0; row < rows; row++) {
        static thread_local std::vector<float> buffer;
        buffer.resize(flat + m.size + m.logits + n * n);
        float *x = buffer.data(), *sum = x + flat, *logits = sum + m.size, *matrix = logits + m.logits;
        widen(streams + row * flat, x, flat);
        float scale = inverse_rms(x, flat, m.norm_eps);
        int64_t k = 0;
        for (; k + 4 <= m.logits; k += 4) {  // four sums at a time, each waiting for its own
            const float *p = m.phi + k * flat, *q = p + flat, *r = q + flat, *s = r + flat;
            float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
            for (int64_t i = 0; i < flat; i++) {
                a += p[i] * x[i];
                b += q[i] * x[i];
                c += r[i] * x[i];
                d += s[i] * x[i];
            }
            logits[k] = a, logits[k + 1] = b, logits[k + 2] = c, logits[k + 3] = d;
        }
        for (; k < m.logits; k++) logits[k] = dot(m.phi + k * flat, x, flat);
        for (k = 0; k < m.logits; k++) logits[k] = m.bias[k] + logits[k] * scale * m.gate[k];

        std::memset(sum, 0, m.size * sizeof(float));
        for (int64_t stream = 0; stream < n; stream++) {
            float gate = sigmoid(logits[stream]) + m.eps;
#pragma omp simd
            for (int64_t i = 0; i < m.size; i++) sum[i] += gate * x[stream * m.size + i];
        }
        for (int64_t i = 0; i < m.size; i++) sum[i] = rounded<T>(sum[i]);
        float inverse = inverse_rms(sum, m.size, eps);
        T* to = out + row * m.size;
#pragma omp simd
        for (int64_t i = 0; i < m.size; i++) store(to + i, sum[i] * inverse * weight[i]);

        if (m.matrices) {
            mix_permutations(logits + 2 * n, matrix, n, m);
        } else if (m.iterations) {
            std::memcpy(matrix, logits + 2 * n, n * n * sizeof(float));
            sinkhorn(matrix, n, m.iterations, m.eps);
        } else {
            for (int64_t place = 0; place < n * n; place++) matrix[place] = place % (n + 1) == 0;
        }
        float* own = writing + row * n * (n + 1);
        for (int64_t stream = 0; stream < n; stream++) {
            std::memcpy(own + stream * (n + 1), matrix + stream * n, n * sizeof(float));
            own[stream * (n + 1) + n] = 2 * sigmoid(logits[n + stream]);
        }
    }
}

// Mix the streams and add a sublayer's output, [rows, size].
template <class T>
void write(const T* streams, const T* output, const float* writing, T* out, int64_t rows, int64_t n,
           int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * n * size > 8192)
    for (int64_t row = 0; row < rows; row++) {
        static thread_local std::vector<float> buffer;
        buffer.resize((n + 2) * size);
        float *x = buffer.data(), *sum = x + (n + 1) * size;
        widen(streams + row * n * size, x, n * size);
        widen(output + row * size, x + n * size, size);
        for (int64_t stream = 0; stream < n; stream++) {
            const float* weights = writing + (row * n + stream) * (n + 1);
            std::memset(sum, 0, size * sizeof(float));
            for (int64_t from = 0; from <= n; from++)
#pragma omp simd
                for (int64_t i = 0; i < size; i++) sum[i] += weights[from] * x[from * size + i];
            T* to = out + (row * n + stream) * size;
            for (int64_t i = 0; i < size; i++) store(to + i, sum[i]);
        }
    }
}

#if HAS_PRODUCTS
struct Layer {
    const float* norms[2];
    const float* heads_norm;      // [heads + groups, size], or none
    Weights qkv, output, gate, down;
    const Mixing* mixing[2];      // of its connections, or none
    void* kept;                   // keys and values, see attend
};

// Take one new token of each sequence through the layers. x [rows, streams, width], in place; inner: outputs
// of the gates.
template <class T>
void decode(T* x, const Layer* layers, int64_t count, const Attention& a, int64_t streams, int64_t width,
            int64_t inner, int threads) {
    static thread_local std::vector<T> buffer;
    static thread_local std::vector<float> writings;
    const int64_t rows = a.rows, all = (a.heads + 2 * a.groups) * a.size, seen = a.heads * a.size;
    buffer.resize(rows * (width * (streams + 2) + all + seen + inner));
    writings.resize(rows * streams * (streams + 1));
    T *spare = buffer.data(), *u = spare + rows * width * streams, *added = u + rows * width;
    T *qkv = added + rows * width, *attended = qkv + rows * all, *fed = attended + rows * seen;
    T *now = x, *next = spare;
    float* writing = writings.data();
    auto enter = [&](const Layer& layer, int part) {
        if (streams > 1) read(now, layer.norms[part], u, writing, rows, a.eps, *layer.mixing[part], threads);
        else norm(now, layer.norms[part], u, rows, width, a.eps, threads);
    };
    auto leave = [&](const T* given, const Weights& weights, int64_t size) {
        if (streams == 1) return multiply(given, weights, now, now, rows, size, ADDED, threads);
        multiply(given, weights, (const T*)nullptr, added, rows, size, PLAIN, threads);
        write(now, added, writing, next, rows, streams, width, threads);
        std::swap(now, next);
    };
    for (const Layer* layer = layers; layer < layers + count; layer++) {
        enter(*layer, 0);
        multiply(u, layer->qkv, (const T*)nullptr, qkv, rows, width, PLAIN, threads);
        attend(qkv, (T*)layer->kept, layer->heads_norm, attended, a);
        leave(attended, layer->output, seen);
        enter(*layer, 1);
        multiply(u, layer->gate, (const T*)nullptr, fed, rows, width, GATED, threads);
        leave(fed, layer->down, inner);
    }
    if (now != x) std::memcpy(x, now, rows * streams * width * sizeof(T));
}
#endif

// The first place up to which numbers add up to more than what is left, or else the last one above 0; -1 if
// there is none.
template <class N>
int64_t reach(const N* numbers, int64_t count, double& left) {
    int64_t place = -1;
    for (int64_t i = 0; i < count; i++) {
        if (!(numbers[i] > 0)) continue;
        if (place >= 0) left -= numbers[place];
        place = i;
        if (left < numbers[i]) break;
    }
    return place;
}

// Draw a token of each row with its uniform number, which inverts the sum of weights: block by block, then
// within one. Figures are logs of the token's probability, of all tokens and of those not banned; not finite
// where logits are not. logits [rows, size]; figures [2, rows].
template <class T>
void choose(const T* logits, const double* uniforms, const int64_t* banned, int64_t many, int64_t* tokens,
            float* figures, int64_t rows, int64_t size, int threads) {
    const int64_t block = 128, blocks = (size + block - 1) / block;
#pragma omp parallel for num_threads(threads) if (rows * size > 8192)
    for (int64_t row = 0; row < rows; row++) {
        static thread_local std::vector<float> buffer;
        static thread_local std::vector<double> sums;
        buffer.assign(blocks * block, 0);
        sums.resize(blocks);
        float *weights = buffer.data(), most = -INFINITY;
        widen(logits + row * size, weights, size);
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < size; i++) most = weights[i] > most ? weights[i] : most;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) weights[i] = power(weights[i] - most);
        auto add = [&] {
            double total = 0;
            for (int64_t one = 0; one < blocks; one++) {
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = one * block; i < (one + 1) * block; i++) sum += weights[i];
                total += sums[one] = sum;
            }
            return total;
        };
        double all = add();
        for (int64_t i = 0; i < many; i++) weights[banned[i]] = 0;
        double allowed = many ? add() : all, left = uniforms[row] * allowed;
        int64_t chosen = std::max<int64_t>(reach(sums.data(), blocks, left), 0);
        int64_t token = chosen * block + std::max<int64_t>(reach(weights + chosen * block, block, left), 0);
        tokens[row] = token;
        figures[row] = wide(logits[row * size + token]) - most - std::log(all);
        figures[rows + row] = std::log(weights[token] / allowed);
    }
}

}  // namespace

#define FOR(T, NAME)                                                                                    \
    extern "C" void norm_##NAME(const T* x, const float* weight, T* out, int64_t rows, int64_t size,    \
                                float eps, int threads) {                                               \
        norm(x, weight, out, rows, size, eps, threads);                                                 \
    }                                                                                                   \
    extern "C" void attend_##NAME(T* qkv, T* kept, const float* norms, T* out, const Attention* a) {    \
        attend(qkv, kept, norms, out, *a);                                                              \
    }                                                                                                   \
    extern "C" void read_##NAME(const T* streams, const float* weight, T* out, float* writing,          \
                                int64_t rows, float eps, const Mixing* m, int threads) {                \
        read(streams, weight, out, writing, rows, eps, *m, threads);                                    \
    }                                                                                                   \
    extern "C" void write_##NAME(const T* streams, const T* output, const float* writing, T* out,       \
                                 int64_t rows, int64_t n, int64_t size, int threads) {                  \
        write(streams, output, writing, out, rows, n, size, threads);                                   \
    }                                                                                                   \
    extern "C" void choose_##NAME(const T* logits, const double* uniforms, const int64_t* banned,       \
                                  int64_t many, int64_t* tokens, float* figures, int64_t rows,          \
                                  int64_t size, int threads) {                                          \
        choose(logits, uniforms, banned, many, tokens, figures, rows, size, threads);                   \
    }

FOR(float, float32)
FOR(bfloat16, bfloat16)

extern "C" int has_products() { return HAS_PRODUCTS; }

#if HAS_PRODUCTS
#define PRODUCTS(T, NAME)                                                                               \
    extern "C" void multiply_##NAME(const T* x, const Weights* w, const T* other, T* out, int64_t rows, \
                                    int64_t size, int then, int threads) {                              \
        multiply(x, *w, other, out, rows, size, Then(then), threads);                                   \
    }                                                                                                   \
    extern "C" void decode_##NAME(T* x, const Layer* layers, int64_t count, const Attention* a,         \
                                  int64_t streams, int64_t width, int64_t inner, int threads) {         \
        decode(x, layers, count, *a, streams, width, inner, threads);                                   \
    }

PRODUCTS(float, float32)
PRODUCTS(bfloat16, bfloat16)
#endif
