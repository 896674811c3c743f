// Products of a few rows with a weight matrix, for processors with AVX-512 (and its bfloat16 products).
//
// Weights lie in panels of 32 outputs, [panels, size / PER, 32, PER], PER inputs side by side: what one
// instruction multiplies. An output is summed up input by input, whatever rows stand beside its own, so that
// a row's result depends on nothing else, to the last bit.

const int64_t PANEL = 32;

enum Then { PLAIN, ADDED, GATED };  // add other numbers; multiply a panel's swish of 16 gates with its others

struct Weights {
    const void* panels;
    const float* bias;  // [panels * 32], or none
    int64_t outputs;    // of the map; GATED halves them
};

template <class T>
struct Lane;

template <>
struct Lane<float> {
    static const int64_t per = 1;
    static __m512 load(const float* weights) { return _mm512_loadu_ps(weights); }
    static __m512 spread(const float* input) { return _mm512_set1_ps(*input); }
    static __m512 sum(__m512 total, __m512 x, __m512 w) { return _mm512_fmadd_ps(x, w, total); }
    static __m512 get(const float* from, __mmask16 kept) { return _mm512_maskz_loadu_ps(kept, from); }
    static void put(float* to, __mmask16 kept, __m512 numbers) { _mm512_mask_storeu_ps(to, kept, numbers); }
};

template <>
struct Lane<bfloat16> {
    static const int64_t per = 2;
    static __m512bh load(const bfloat16* weights) { return (__m512bh)_mm512_loadu_si512(weights); }
    static __m512bh spread(const bfloat16* inputs) {
        int32_t pair;
        std::memcpy(&pair, inputs, 4);
        return (__m512bh)_mm512_set1_epi32(pair);
    }
    static __m512 sum(__m512 total, __m512bh x, __m512bh w) { return _mm512_dpbf16_ps(total, x, w); }
    static __m512 get(const bfloat16* from, __mmask16 kept) {
        __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(kept, from));
        return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    }
    static void put(bfloat16* to, __mmask16 kept, __m512 numbers) {
        _mm256_mask_storeu_epi16(to, kept, (__m256i)_mm512_cvtneps_pbh(numbers));
    }
};

inline __mmask16 first_of(int64_t count) {
    return count >= 16 ? 0xffff : count <= 0 ? 0 : __mmask16((1u << count) - 1);
}

// Compiled once: where it is inlined, sums may be taken in another order for another number of rows.
__attribute__((noinline)) __m512 swish(__m512 gates) {
    alignas(64) float numbers[16];
    _mm512_store_ps(numbers, gates);
#pragma omp simd
    for (int i = 0; i < 16; i++) {
        float small = power(-std::fabs(numbers[i]));  // of what is not above 0
        numbers[i] *= (numbers[i] < 0 ? small : 1.0f) / (1.0f + small);
    }
    return _mm512_load_ps(numbers);
}

// ROWS rows with one panel.
template <class T, int ROWS>
void tile(const T* x, const T* weights, const float* bias, const T* other, T* out, int64_t size,
          int64_t outputs, int64_t panel, Then then) {
    const int64_t per = Lane<T>::per;
    __m512 sums[ROWS][2];
    for (int row = 0; row < ROWS; row++)
        for (int half = 0; half < 2; half++)
            sums[row][half] = bias ? _mm512_loadu_ps(bias + panel * PANEL + half * 16) : _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += per, weights += PANEL * per) {
        auto first = Lane<T>::load(weights), second = Lane<T>::load(weights + 16 * per);
        for (int row = 0; row < ROWS; row++) {
            auto input = Lane<T>::spread(x + row * size + i);
            sums[row][0] = Lane<T>::sum(sums[row][0], input, first);
            sums[row][1] = Lane<T>::sum(sums[row][1], input, second);
        }
    }
    for (int row = 0; row < ROWS; row++) {
        if (then == GATED) {
            T* place = out + row * outputs / 2 + panel * 16;
            Lane<T>::put(place, first_of(outputs / 2 - panel * 16),
                         _mm512_mul_ps(swish(sums[row][0]), sums[row][1]));
            continue;
        }
        for (int half = 0; half < 2; half++) {
            int64_t start = panel * PANEL + half * 16, place = row * outputs + start;
            __mmask16 kept = first_of(outputs - start);
            if (!kept) continue;
            __m512 sum = sums[row][half];
            if (then == ADDED) sum = _mm512_add_ps(sum, Lane<T>::get(other + place, kept));
            Lane<T>::put(out + place, kept, sum);
        }
    }
}

template <class T, int ROWS>
struct Tiles {
    static void run(int64_t rows, const T* x, const T* weights, const float* bias, const T* other, T* out,
                    int64_t size, int64_t outputs, int64_t panel, Then then) {
        if (rows == ROWS) tile<T, ROWS>(x, weights, bias, other, out, size, outputs, panel, then);
        else Tiles<T, ROWS - 1>::run(rows, x, weights, bias, other, out, size, outputs, panel, then);
    }
};

template <class T>
struct Tiles<T, 0> {
    static void run(int64_t, const T*, const T*, const float*, const T*, T*, int64_t, int64_t, int64_t, Then) {}
};

// x [rows, size]; other and out [rows, outputs], which may be the same; out of GATED [rows, outputs / 2].
template <class T>
void multiply(const T* x, const Weights& w, const T* other, T* out, int64_t rows, int64_t size, Then then,
              int threads) {
    const int64_t many = 8, block = 64, panels = (w.outputs + PANEL - 1) / PANEL;
    const int64_t width = then == GATED ? w.outputs / 2 : w.outputs;
#pragma omp parallel for collapse(2) num_threads(threads) if (rows * size * w.outputs > 262144)
    for (int64_t start = 0; start < rows; start += block)
        for (int64_t panel = 0; panel < panels; panel++) {
            const T* weights = (const T*)w.panels + panel * PANEL * size;
            int64_t end = std::min(start + block, rows);
            for (int64_t row = start; row < end; row += many)
                Tiles<T, many>::run(std::min(many, end - row), x + row * size, weights, w.bias,
                                    other ? other + row * width : nullptr, out + row * width, size, w.outputs,
                                    panel, then);
        }
}
