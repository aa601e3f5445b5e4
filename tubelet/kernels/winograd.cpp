// Winograd convolution on x86-64, in float32 of float32 or bfloat16, for kernels (k, 3, 3), (3, 1, 1) and, at stride 2 in
// space, (k, 5, 5) and (k, 7, 7), after Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
// arXiv:1509.09308.
//
// Tensors lie in memory as (N, T, H, W, C). An output is cut into patches: 4 x 4 pixels of a frame, of two neighbouring
// frames, or one pixel of four frames. A patch and the input that it sees go through linear transforms, between which
// the convolution is one small matrix product for each of the `components` of the transform:
//
//     form      kernel          patch      components   products a patch, and without Winograd
//     frames    (kt, 3, 3)      1 x 4 x 4      36        36 kt             144 kt
//     volume    (3, 3, 3)       2 x 4 x 4     144       144                864
//     time      (3, 1, 1)       4 x 1 x 1       6         6                 12
//     stride 2  (kt, 5, 5)      1 x 4 x 4      36       144 kt             400 kt
//               (kt, 7, 7)      1 x 3 x 3      36       144 kt             441 kt
//
// Stride 2 in space is stride 1 over cells of 2 x 2 pixels: four times as many channels, and half as many places of the
// kernel along each axis. Two pixels side by side lie together in memory, so a cell is two runs of floats.
//
// With a dilation d a patch has every d-th pixel, and so has what it sees: an axis falls into d `phases`, which are
// convolutions without dilation.
//
// The part between the lines "what is compiled for each instruction set" is compiled twice: this file includes itself.
#ifndef LANES

#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

enum Form { frames, volume, time_alone };

using Brief = uint16_t;  // bfloat16, the upper half of a float

// GOMP_parallel of the OpenMP library that torch runs on: its threads are the ones that are awake.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

}  // namespace

struct Convolution {
    int64_t form, in_channels, out_channels;
    int64_t kernel_t, kernel_s, stride_t, stride_s, pad_t, pad_h, pad_w, dilation_t, dilation_s;  // s: in space
    const float* packed;
};

// (out_channels, in_channels, places of the kernel), and floats from one of each to the next.
struct Weight {
    int64_t output_step, input_step, place_step;
    const float* data;
};

struct Call {
    Convolution of;
    int64_t batch, t, h, w;                             // of the input; h and w are even where the stride in space is 2
    int64_t out_t, out_h, out_w;
    int64_t input_pixel, output_pixel, residual_pixel;  // values from one pixel to the next
    int64_t is_bfloat16, relu, threads;                 // input, residual and output; weight and bias never are
    const void *input, *residual;                       // residual and bias may be null
    void* output;
    const float* bias;
    Parallel parallel;  // may be null
};

namespace {

constexpr int64_t line = 16;                // floats of a cache line
constexpr int64_t budget = 240 * 1024 / 4;  // floats that a block of transformed patches may take of a level 2 cache
constexpr int64_t most_kept = 1 << 20;      // floats of an output that a cache is likely to hold until they are read
constexpr int64_t nowhere = INT64_MIN;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Points of interpolation besides 0 and infinity: +-near and +-far. With 1 / sqrt 2 and sqrt 2 the transforms round less
// than with the usual 1 and 2.
constexpr double near_point = 0.70710678118654752440, far_point = 1.41421356237309504880;

// Transform of a kernel of some places along an axis: rows of G, of `size` components.
void kernel_rows(int size, int places, float rows[6][4]) {
    const double points[6] = {0, size == 4 ? 1 : near_point, size == 4 ? -1 : -near_point, far_point, -far_point, 0};
    for (int i = 0; i < size - 1; i++) {
        double value = 1;
        for (int j = 0; j < size - 1; j++)
            if (j != i) value /= points[i] - points[j];
        for (int k = 0; k < places; k++, value *= points[i]) rows[i][k] = static_cast<float>(value);
    }
    rows[size - 1][places - 1] = 1;
}

// Kept by each thread, and grown to what the largest convolution needs.
struct Scratch {
    float* data = nullptr;
    int64_t size = 0;
    float* of(int64_t floats) {
        if (size < floats) {
            std::free(data);
            data = static_cast<float*>(std::aligned_alloc(64, ceil_div(floats, line) * 64));
            size = data ? floats : 0;
        }
        return data;
    }
    ~Scratch() { std::free(data); }
};
thread_local Scratch scratch;

}  // namespace

#define LANES 16
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl")
#endif
namespace avx512 {
#include __FILE__
}
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#undef LANES
#define LANES 8
namespace avx2 {
#include __FILE__
}
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

extern "C" {

// Floats in the widest vector that this processor has: 16, 8, or 0.
int winograd_lanes() {
    const bool is_wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    if (is_wide && __builtin_cpu_supports("avx512vl")) return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}

int64_t winograd_packed_size(int lanes, const Convolution* of) {
    return lanes == 16 ? avx512::packed_size(*of) : avx2::packed_size(*of);
}

void winograd_pack(int lanes, const Convolution* of, const Weight* weight, float* packed) {
    lanes == 16 ? avx512::pack(*of, *weight, packed) : avx2::pack(*of, *weight, packed);
}

// 0, or 1 when there is no memory.
int winograd_run(int lanes, const Call* call) { return lanes == 16 ? avx512::run(*call) : avx2::run(*call); }
}

#else  // what is compiled for each instruction set

namespace {

#if LANES == 16
using Vector = __m512;
inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector all(float x) { return _mm512_set1_ps(x); }
inline Vector load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vector x) { _mm512_storeu_ps(p, x); }
inline Vector load(const float* p, int n) { return _mm512_maskz_loadu_ps((1u << n) - 1, p); }
inline void store(float* p, Vector x, int n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, x); }
inline void store_past_cache(float* p, Vector x) { _mm512_stream_ps(p, x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
inline Vector fnma(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
inline Vector positive(Vector x) { return _mm512_max_ps(x, zero()); }
inline Vector join(Vector x, int n, const float* p) { return _mm512_mask_loadu_ps(x, ((1u << n) - 1) << n, p - n); }
constexpr int most_rows(int width) { return width == 3 ? 9 : 14; }  // 32 registers

inline Vector widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __m256i rounded(Vector x) {  // to even, and what is no number stays none
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_none = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(near, is_none, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
inline Vector load(const Brief* p) { return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vector load(const Brief* p, int n) { return widened(_mm256_maskz_loadu_epi16((1u << n) - 1, p)); }
inline void store(Brief* p, Vector x, int n) { _mm256_mask_storeu_epi16(p, (1u << n) - 1, rounded(x)); }
#else
using Vector = __m256;
inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector all(float x) { return _mm256_set1_ps(x); }
inline Vector load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vector x) { _mm256_storeu_ps(p, x); }
inline __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vector load(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
inline void store(float* p, Vector x, int n) { _mm256_maskstore_ps(p, first(n), x); }
inline void store_past_cache(float* p, Vector x) { _mm256_stream_ps(p, x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector fnma(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
inline Vector positive(Vector x) { return _mm256_max_ps(x, zero()); }
inline Vector join(Vector x, int n, const float* p) {  // n floats after the first n of x, the others of which are 0
    return x + _mm256_maskload_ps(p - n, _mm256_andnot_si256(first(n), first(2 * n)));
}
constexpr int most_rows(int width) { return width == 3 ? 4 : width == 2 ? 6 : 12; }  // 16 registers

inline Vector load(const Brief* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline Vector load(const Brief* p, int n) {
    Brief some[LANES] = {};
    std::memcpy(some, p, n * sizeof(Brief));
    return load(some);
}
inline void store(Brief* p, Vector x, int n) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    const __m256i is_none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i kept = _mm256_srli_epi32(_mm256_blendv_epi8(near, _mm256_set1_epi32(0x7fc00000), is_none), 16);
    Brief all_of[2 * LANES];
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(kept, kept), 0x08);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(all_of), packed);
    std::memcpy(p, all_of, n * sizeof(Brief));
}
#endif
constexpr int most_width = 3;

inline Vector join(Vector x, int n, const Brief* p) {
    float some[LANES] = {};
    store(some + n, load(p, n), n);
    return x + load(some);
}

// ---- one-dimensional transforms; the size is that of the input, 1 is none

template <int Size>
inline void transform_input(const Vector* d, Vector* out) {
    if constexpr (Size == 1) {
        out[0] = d[0];
    } else if constexpr (Size == 4) {
        out[0] = d[2] - d[0];
        out[1] = d[2] + d[1];
        out[2] = d[2] - d[1];
        out[3] = d[3] - d[1];
    } else {
        constexpr double a = near_point, b = far_point;
        const Vector a1 = all(a), b1 = all(b), a2 = all(a * a), b2 = all(b * b), sum = all(a * a + b * b);
        static_assert(a * b > 1 - 1e-12 && a * b < 1 + 1e-12, "d[0] and d[1] have the factor (a b)^2");
        const Vector even_a = fnma(b2, d[2], d[4]), odd_a = fnma(b2, d[1], d[3]);
        const Vector even_b = fnma(a2, d[2], d[4]), odd_b = fnma(a2, d[1], d[3]);
        out[0] = fnma(sum, d[2], d[0] + d[4]);
        out[1] = fma(a1, odd_a, even_a);
        out[2] = fnma(a1, odd_a, even_a);
        out[3] = fma(b1, odd_b, even_b);
        out[4] = fnma(b1, odd_b, even_b);
        out[5] = fnma(sum, d[3], d[1] + d[5]);
    }
}

template <int Size, int Out>
inline void transform_output(const Vector* m, Vector* out) {
    if constexpr (Size == 1) {
        out[0] = m[0];
    } else if constexpr (Size == 4) {
        out[0] = m[0] + (m[1] + m[2]);
        out[1] = m[3] + (m[1] - m[2]);
    } else {
        constexpr double a = near_point, b = far_point;
        const Vector sum_a = m[1] + m[2], odd_a = m[1] - m[2], sum_b = m[3] + m[4], odd_b = m[3] - m[4];
        out[0] = m[0] + (sum_a + sum_b);
        out[1] = fma(all(a), odd_a, all(b) * odd_b);
        out[2] = fma(all(a * a), sum_a, all(b * b) * sum_b);
        if constexpr (Out == 3)
            out[2] += m[5];
        else
            out[3] = fma(all(a * a * a), odd_a, fma(all(b * b * b), odd_b, m[5]));
    }
}

// ---- matrix product of one component: rows (patches) x channels of the input by channels x (Width vectors)

// `a`: for each vector of input channels, Rows vectors, one a patch. `b`: for each input channel, Width vectors.
template <int Rows, int Width>
void product(const float* a, int64_t row_stride, const float* b, int64_t taps, int64_t channels, float* c) {
    Vector sum[Rows][Width];  // in registers, once the loops over it are unrolled
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < Width; j++) sum[i][j] = zero();
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t left = channels; left > 0; left -= LANES, a += row_stride) {
            const int depth = left < LANES ? left : LANES;
            for (int k = 0; k < depth; k++, b += Width * LANES) {
                Vector column[Width];
#pragma GCC unroll 4
                for (int j = 0; j < Width; j++) column[j] = load(b + j * LANES);
#pragma GCC unroll 16
                for (int i = 0; i < Rows; i++) {
                    const Vector x = all(a[i * LANES + k]);
#pragma GCC unroll 4
                    for (int j = 0; j < Width; j++) sum[i][j] = fma(x, column[j], sum[i][j]);
                }
            }
        }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < Width; j++) store(c + (i * Width + j) * LANES, sum[i][j]);
}

using Product = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*);

template <int Width, int Rows = 1>
Product product_of(int64_t rows) {
    if constexpr (Rows < most_rows(Width)) {
        if (rows > Rows) return product_of<Width, Rows + 1>(rows);
    }
    return product<Rows, Width>;
}

Product product_of(int64_t rows, int64_t width) {
    return width == 1 ? product_of<1>(rows) : width == 2 ? product_of<2>(rows) : product_of<3>(rows);
}

// ---- weights

struct Shape {
    int64_t cell;                    // pixels along its edge
    int64_t places, side, tile;      // cells along an axis: of the kernel, of what a patch sees, of the patch
    int64_t time_in, components;
    int64_t rows, taps, channels;    // a tap is a frame of the kernel, or one of the `rows` of its cells
    int64_t vectors, width, blocks;  // of output channels
    explicit Shape(const Convolution& of) {
        cell = of.stride_s;
        places = (of.kernel_s + cell - 1) / cell;
        side = of.form == time_alone ? 1 : 6;
        tile = side - places + 1;
        time_in = of.form == frames ? 1 : of.form == volume ? 4 : 6;
        components = time_in * side * side;
        rows = cell == 2 && 4 * of.in_channels > LANES ? 2 : 1;
        taps = of.form == frames ? of.kernel_t * rows : 1;
        channels = of.in_channels * cell * cell / rows;
        vectors = ceil_div(of.out_channels, LANES);
        // as few blocks of less than full width as may be
        width = vectors == 1 ? 1 : vectors % 2 == 1 && vectors % 3 != 1 ? 3 : 2;
        blocks = ceil_div(vectors, width);
    }
    int64_t width_of(int64_t block) const { return block == blocks - 1 ? vectors - block * width : width; }
    int64_t depth() const { return taps * channels; }
};

int64_t packed_size(const Convolution& of) {
    const Shape shape(of);
    return shape.vectors * LANES * shape.components * shape.depth();
}

struct Rows {
    float time[6][4] = {{1}}, space[6][4] = {};
    explicit Rows(const Convolution& of, const Shape& shape) {
        if (of.form != frames) kernel_rows(shape.time_in, 3, time);
        kernel_rows(6, shape.places, space);
    }
};

// The sum of by[k] x[k Apart].
template <int Count, int Apart>
inline Vector weighted(const float* by, const Vector* x) {
    Vector sum = all(by[0]) * x[0];
    for (int k = 1; k < Count; k++) sum = fma(all(by[k]), x[k * Apart], sum);
    return sum;
}

// Kernels of one input channel and LANES output channels, a vector for each place of the kernel, to one a component.
template <int Times, int Places>
inline void transform_kernels(const Rows& rows, int64_t time_in, const float* w, float* out, int64_t step) {
    constexpr int in_frame = Places * Places;
    for (int64_t t = 0; t < time_in; t++) {
        Vector slice[in_frame];
        for (int s = 0; s < in_frame; s++) {
            Vector at[Times];
            for (int k = 0; k < Times; k++) at[k] = load(w + (k * in_frame + s) * LANES);
            slice[s] = weighted<Times, 1>(rows.time[t], at);
        }
        if constexpr (Places == 1) {
            store(out, slice[0]);
            out += step;
        } else {
            for (const auto& of_row : rows.space) {
                Vector row[Places];
                for (int j = 0; j < Places; j++) row[j] = weighted<Places, Places>(of_row, slice + j);
                for (const auto& of_column : rows.space) {
                    store(out, weighted<Places, 1>(of_column, row));
                    out += step;
                }
            }
        }
    }
}

// Floats from the start of a kernel to what stands at a place of a tap and channel.
int64_t place_of(const Convolution& of, const Shape& shape, const Weight& weight, int64_t tap, int64_t channel,
                 int64_t place) {
    if (shape.cell == 1) {
        const int64_t per_tap = of.kernel_t * of.kernel_s * of.kernel_s / shape.taps;
        return channel * weight.input_step + (tap * per_tap + place) * weight.place_step;
    }
    const int64_t pixel = tap % shape.rows * 2 + channel / of.in_channels;  // of the cell
    const int64_t y = place / shape.places * 2 + pixel / 2 - of.pad_h % 2;
    const int64_t x = place % shape.places * 2 + pixel % 2 - of.pad_w % 2;
    if (y < 0 || y >= of.kernel_s || x < 0 || x >= of.kernel_s) return nowhere;
    const int64_t at = (tap / shape.rows * of.kernel_s + y) * of.kernel_s + x;
    return channel % of.in_channels * weight.input_step + at * weight.place_step;
}

// (out_channels, in_channels, kernel) -> for each block of output channels: [component][tap][channel][lane]
void pack(const Convolution& of, const Weight& weight, float* packed) {
    const Shape shape(of);
    const Rows rows(of, shape);
    const int64_t per_tap = shape.places * shape.places * (of.form == frames ? 1 : 3);
    const auto transform = of.form == time_alone ? transform_kernels<3, 1>
                           : of.form == volume   ? transform_kernels<3, 3>
                           : shape.places == 3   ? transform_kernels<1, 3>
                                                 : transform_kernels<1, 4>;
    constexpr int64_t most = 8;  // channels at once, so that they are read along the cache's lines
    alignas(64) float kernels[most * 27 * LANES];
    int64_t places[most * 27];
    for (int64_t block = 0; block < shape.blocks; block++) {
        const int64_t lanes = shape.width_of(block) * LANES, step = shape.depth() * lanes;
        for (int64_t v = 0; v < lanes; v += LANES)
            for (int64_t tap = 0; tap < shape.taps; tap++)
                for (int64_t c = 0; c < shape.channels; c += most) {
                    const int64_t channels = shape.channels - c < most ? shape.channels - c : most;
                    for (int64_t i = 0; i < channels * per_tap; i++)
                        places[i] = place_of(of, shape, weight, tap, c + i / per_tap, i % per_tap);
                    for (int64_t lane = 0; lane < LANES; lane++) {
                        const int64_t channel = block * shape.width * LANES + v + lane;
                        const float* w = weight.data + channel * weight.output_step;
                        const bool is_there = channel < of.out_channels;
                        for (int64_t i = 0; i < channels * per_tap; i++)
                            kernels[i * LANES + lane] = is_there && places[i] != nowhere ? w[places[i]] : 0;
                    }
                    for (int64_t i = 0; i < channels; i++)
                        transform(rows, shape.time_in, kernels + i * per_tap * LANES,
                                  packed + (tap * shape.channels + c + i) * lanes + v, step);
                }
        packed += shape.components * step;
    }
}

// ---- the convolution

struct Task {
    const Call& call;
    Shape shape;
    int64_t groups_t, tiles_h, tiles_w, phases, patches;  // groups and tiles of a phase, phases in space
    int64_t at_once, parts, tasks;  // patches of a block; ways in which output channels are shared; blocks x parts
    int64_t channel_vectors;        // of a tap
    bool past_cache;                // whether the output is written without its lines being fetched first
    std::atomic<int64_t> next{0};
    std::atomic<bool> has_memory{true};

    explicit Task(const Call& call) : call(call), shape(call.of) {
        const auto& of = call.of;
        groups_t = ceil_div(ceil_div(call.out_t, of.dilation_t), time_out());
        tiles_h = ceil_div(ceil_div(call.out_h, of.dilation_s), shape.tile);
        tiles_w = ceil_div(ceil_div(call.out_w, of.dilation_s), shape.tile);
        phases = of.dilation_s * of.dilation_s;
        patches = call.batch * groups_t * of.dilation_t * phases * tiles_h * tiles_w;
        channel_vectors = ceil_div(shape.channels, LANES);
        const int64_t floats = shape.components * shape.taps * channel_vectors * LANES, rows = most_rows(shape.width);
        int64_t most = budget / floats / rows * rows;
        if (most < 2 * rows) most = 2 * rows;  // each time that the weight is read serves so many
        int64_t blocks = ceil_div(patches, most);
        parts = 1;
        if (blocks < 2 * call.threads) {
            if (blocks == 1)
                parts = call.threads < shape.blocks ? call.threads : shape.blocks;
            else
                blocks = ceil_div(blocks, call.threads) * call.threads;
        }
        at_once = ceil_div(patches, blocks);
        blocks = ceil_div(patches, at_once);
        tasks = blocks * parts;
        const int64_t values = call.batch * call.out_t * call.out_h * call.out_w * call.of.out_channels;
        const auto place = reinterpret_cast<uintptr_t>(call.output) | call.output_pixel * sizeof(float);
        past_cache = !call.is_bfloat16 && !call.residual && values > most_kept && place % sizeof(Vector) == 0;
    }
    int64_t time_out() const { return shape.time_in == 1 ? 1 : shape.time_in - 2; }
};

// Where a patch lies: its clip, first frame, row and column of the output.
struct Place {
    int64_t n, t, h, w, group;
    Place(const Task& task, int64_t patch) {
        const auto& of = task.call.of;
        const int64_t tiles = task.tiles_h * task.tiles_w, in_frame = tiles * task.phases;
        const int64_t groups = task.groups_t * of.dilation_t;
        // those that see the same frames, if any do, one after another
        const bool by_time = of.kernel_t > 1;
        const int64_t tile = (by_time ? patch / groups : patch) % in_frame, phase = tile / tiles;
        const int64_t in_time = by_time ? patch % groups : patch / in_frame % groups;
        n = patch / (groups * in_frame);
        group = in_time % task.groups_t;
        t = in_time / task.groups_t + group * task.time_out() * of.dilation_t;
        h = phase / of.dilation_s + tile % tiles / task.tiles_w * task.shape.tile * of.dilation_s;
        w = phase % of.dilation_s + tile % task.tiles_w * task.shape.tile * of.dilation_s;
    }
};

// Patches of a block lie in groups of `rows`, [group][component][vector of channels][row][lane]; the vectors of a
// component are followed by a line that is not used, lest all components meet in the same sets of a cache.
struct Block {
    int64_t first, count, rows, groups;
    Block(const Task& task, int64_t index) {
        const int64_t most = most_rows(task.shape.width);
        first = index * task.at_once;
        count = task.patches - first < task.at_once ? task.patches - first : task.at_once;
        rows = ceil_div(count, ceil_div(count, most));
        groups = ceil_div(count, rows);
    }
    // Floats to a patch, where groups and rows have so many.
    int64_t start(int64_t patch, int64_t group, int64_t row) const { return patch / rows * group + patch % rows * row; }
    int64_t rows_of(int64_t group) const { return group == groups - 1 ? count - group * rows : rows; }
};

// Structs, not lambdas: those of a template would be compiled without this instruction set.
struct Whole {
    template <typename T>
    Vector operator()(const T* p) const {
        return load(p);
    }
};
struct First {
    int lanes;
    template <typename T>
    Vector operator()(const T* p) const {
        return load(p, lanes);
    }
};
struct Cell {
    int lanes;      // of one of its two rows
    int64_t below;  // values from the upper one to the lower
    const void* zeros;
    template <typename T>
    Vector operator()(const T* p) const {
        return p == zeros ? zero() : join(load(p, lanes), lanes, p + below);
    }
};

// One vector of channels of one patch; `from` are the pixels that it sees.
template <int TimeIn, int Side, typename Load, typename T>
inline void transform_vector(const T* const (&from)[TimeIn][Side][Side], int64_t channel, Load load_at, float* to,
                             int64_t component) {
    Vector half[TimeIn][Side][Side];
    for (int j = 0; j < Side; j++) {
        Vector column[TimeIn][Side];
        for (int i = 0; i < Side; i++) {
            Vector d[TimeIn], v[TimeIn];
            for (int t = 0; t < TimeIn; t++) d[t] = load_at(from[t][i][j] + channel);
            transform_input<TimeIn>(d, v);
            for (int t = 0; t < TimeIn; t++) column[t][i] = v[t];
        }
        for (int t = 0; t < TimeIn; t++) {
            Vector v[Side];
            transform_input<Side>(column[t], v);
            for (int i = 0; i < Side; i++) half[t][i][j] = v[i];
        }
    }
    for (int t = 0; t < TimeIn; t++)
        for (int i = 0; i < Side; i++) {
            Vector v[Side];
            transform_input<Side>(half[t][i], v);
            for (int j = 0; j < Side; j++, to += component) store(to, v[j]);
        }
}

template <typename T, int TimeIn, int Side>
void transform_patches(const Task& task, const Block& block, const T* zeros, float* out) {
    const auto& call = task.call;
    const T* input = static_cast<const T*>(call.input);
    const auto& of = call.of;
    const auto& shape = task.shape;
    const int64_t cell = shape.cell, height = call.h / cell, width = call.w / cell;  // in cells, as are these
    const int64_t before_h = ceil_div(of.pad_h, cell), before_w = ceil_div(of.pad_w, cell);
    const int64_t tap_size = task.channel_vectors * block.rows * LANES, component = shape.taps * tap_size + line;
    for (int64_t p = 0; p < block.count; p++) {
        const Place at(task, block.first + p);
        float* row = out + block.start(p, shape.components * component, LANES);
        // what a tap sees, the tap so many later saw for the patch before
        const int64_t later = p > 0 && at.group > 0 ? of.stride_t * shape.rows : shape.taps;
        for (int64_t tap = 0; tap < shape.taps; tap++) {
            if (TimeIn == 1 && tap + later < shape.taps) {
                const float* same = out + block.start(p - 1, shape.components * component, LANES);
                same += (tap + later) * tap_size;
                for (int64_t c = 0; c < tap_size; c += block.rows * LANES)
                    for (int64_t i = 0; i < shape.components; i++)
                        store(row + c + i * component, load(same + c + i * component));
                row += tap_size;
                continue;
            }
            const T* from[TimeIn][Side][Side];
            for (int t = 0; t < TimeIn; t++) {
                const int64_t frame = at.t * of.stride_t - of.pad_t + (tap / shape.rows + t) * of.dilation_t;
                for (int i = 0; i < Side; i++) {
                    const int64_t y = at.h - before_h + i * of.dilation_s;
                    const bool is_inside = frame >= 0 && frame < call.t && y >= 0 && y < height;
                    const int64_t above = (at.n * call.t + frame) * call.h + y * cell + tap % shape.rows;
                    for (int j = 0; j < Side; j++) {
                        const int64_t x = at.w - before_w + j * of.dilation_s, pixel = above * call.w + x * cell;
                        from[t][i][j] = is_inside && x >= 0 && x < width ? input + pixel * call.input_pixel : zeros;
                    }
                }
            }
            if (cell > shape.rows) {
                const Cell both{static_cast<int>(2 * of.in_channels), call.w * call.input_pixel, zeros};
                transform_vector<TimeIn, Side>(from, 0, both, row, component);
            } else {
                int64_t c = 0;
                for (; c + LANES <= shape.channels; c += LANES)
                    transform_vector<TimeIn, Side>(from, c, Whole{}, row + c * block.rows, component);
                const int rest = shape.channels - c;
                if (rest) transform_vector<TimeIn, Side>(from, c, First{rest}, row + c * block.rows, component);
            }
            row += tap_size;
        }
    }
}

template <typename T, int TimeIn, int Side, int Out>
void write_patches(const Task& task, const Block& block, int64_t channel, int64_t width, const float* in) {
    constexpr int TimeOut = TimeIn == 1 ? 1 : TimeIn - 2;
    const auto& call = task.call;
    const T* residual = static_cast<const T*>(call.residual);
    T* output = static_cast<T*>(call.output);
    const int64_t step_t = call.of.dilation_t, step = call.of.dilation_s;
    const int64_t component = block.rows * width * LANES + line;
    for (int64_t p = 0; p < block.count; p++) {
        const Place at(task, block.first + p);
        const float* row = in + block.start(p, task.shape.components * component, width * LANES);
        for (int64_t v = 0; v < width; v++, row += LANES) {
            const int64_t c = channel + v * LANES, left = call.of.out_channels - c;
            const int lanes = left < LANES ? left : LANES;
            const Vector bias = call.bias ? load(call.bias + c, lanes) : zero();
            Vector half[TimeOut][Out][Side];
            for (int j = 0; j < Side; j++) {
                Vector column[TimeOut][Side];
                for (int i = 0; i < Side; i++) {
                    Vector m[TimeIn], y[TimeOut];
                    for (int t = 0; t < TimeIn; t++) m[t] = load(row + ((t * Side + i) * Side + j) * component);
                    transform_output<TimeIn, TimeOut>(m, y);
                    for (int t = 0; t < TimeOut; t++) column[t][i] = y[t];
                }
                for (int t = 0; t < TimeOut; t++) {
                    Vector y[Out];
                    transform_output<Side, Out>(column[t], y);
                    for (int i = 0; i < Out; i++) half[t][i][j] = y[i];
                }
            }
            for (int t = 0; t < TimeOut && at.t + t * step_t < call.out_t; t++)
                for (int i = 0; i < Out && at.h + i * step < call.out_h; i++) {
                    Vector y[Out];
                    transform_output<Side, Out>(half[t][i], y);
                    const int64_t frame = at.n * call.out_t + at.t + t * step_t;
                    const int64_t first = (frame * call.out_h + at.h + i * step) * call.out_w + at.w;
                    for (int j = 0; j < Out && at.w + j * step < call.out_w; j++) {
                        const int64_t pixel = first + j * step;
                        Vector x = y[j] + bias;
                        if (residual) x += load(residual + pixel * call.residual_pixel + c, lanes);
                        if (call.relu) x = positive(x);
                        T* to = output + pixel * call.output_pixel + c;
                        if (std::is_same<T, float>::value && task.past_cache && lanes == LANES)
                            store_past_cache(reinterpret_cast<float*>(to), x);
                        else
                            store(to, x, lanes);
                    }
                }
        }
    }
}

template <typename T, int TimeIn, int Side, int Out>
void work(void* data) {
    Task& task = *static_cast<Task*>(data);
    const Shape& shape = task.shape;
    const auto& of = task.call.of;
    const int64_t rows = most_rows(shape.width), groups = ceil_div(task.at_once, rows), most = task.at_once + rows;
    const int64_t zeros_size = task.channel_vectors * LANES;
    const int64_t in_size = shape.components * (shape.taps * task.channel_vectors * LANES * most + line * groups);
    const int64_t out_size = shape.components * (shape.width * LANES * most + line * groups);
    float* zeros = scratch.of(zeros_size + in_size + out_size);
    if (!zeros) {
        task.has_memory = false;
        return;
    }
    float *in = zeros + zeros_size, *out = in + in_size;
    std::memset(zeros, 0, zeros_size * sizeof(float));
    for (int64_t i; (i = task.next++) < task.tasks;) {
        const Block block(task, i / task.parts);
        transform_patches<T, TimeIn, Side>(task, block, reinterpret_cast<const T*>(zeros), in);
        const int64_t part = i % task.parts;
        for (int64_t b = shape.blocks * part / task.parts; b < shape.blocks * (part + 1) / task.parts; b++) {
            const int64_t width = shape.width_of(b), depth = shape.depth(), lanes = width * LANES;
            const float* weight = of.packed + b * shape.width * LANES * shape.components * depth;
            const int64_t in_step = shape.taps * task.channel_vectors * block.rows * LANES + line;
            const int64_t out_step = block.rows * lanes + line;
            const Product full = product_of(block.rows, width), last = product_of(block.rows_of(block.groups - 1), width);
            for (int64_t component = 0; component < shape.components; component++, weight += depth * lanes)
                for (int64_t group = 0; group < block.groups; group++) {
                    const int64_t at = group * shape.components + component;
                    (group == block.groups - 1 ? last : full)(in + at * in_step, block.rows * LANES, weight, shape.taps,
                                                              shape.channels, out + at * out_step);
                }
            write_patches<T, TimeIn, Side, Out>(task, block, b * shape.width * LANES, width, out);
        }
    }
    if (task.past_cache) _mm_sfence();
}

template <typename T>
auto work_of(const Task& task) {
    const int64_t form = task.call.of.form;
    return form == time_alone     ? work<T, 6, 1, 1>
           : form == volume       ? work<T, 4, 6, 4>
           : task.shape.tile == 4 ? work<T, 1, 6, 4>
                                  : work<T, 1, 6, 3>;
}

int run(const Call& call) {
    Task task(call);
    const auto each = call.is_bfloat16 ? work_of<Brief>(task) : work_of<float>(task);
    const int64_t threads = call.threads < task.tasks ? call.threads : task.tasks;
    if (threads <= 1) {
        each(&task);
    } else if (call.parallel) {
        call.parallel(each, &task, threads, 0);
    } else {
        std::vector<std::thread> others;
        for (int64_t i = 1; i < threads; i++) others.emplace_back(each, &task);
        each(&task);
        for (auto& other : others) other.join();
    }
    return task.has_memory ? 0 : 1;
}

}  // namespace

#endif
