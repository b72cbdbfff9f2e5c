// Makes ggml prefer modelve's kernels for quantized matrices (crates/matmul) to its own.
//
// ggml asks its "extra buffer types" whether one of them computes an operation before it does so
// itself. They are meant for weights that they repacked; this one takes weights in the file's layout.

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

#include <algorithm>
#include <cstring>

// The operands of FLASH_ATTN_EXT. Strides are those of rows, heads and batches, in bytes.
struct modelve_attention {
    const void * q;
    size_t       q_strides[3];
    const void * k;
    size_t       k_strides[3];
    const void * v;
    size_t       v_strides[3];
    const void * mask;
    size_t       mask_strides[3];
    void *       out;
    size_t       out_stride;
    size_t       key_width, value_width, queries, keys;
    size_t       heads, kv_heads, batches, kv_batches, mask_heads, mask_batches;
    float        scale;
};

struct modelve_matmul {
    // Returns the size in bytes of `n` packed columns of `width` activations; 0 if there is no kernel.
    size_t (*packed_size)(int32_t type, int64_t width, int64_t n);
    // Packs part `part` of `parts` of the columns.
    void (*pack)(int32_t type, int64_t width, int64_t n, const char * x, size_t x_stride, int64_t part, int64_t parts,
                 void * packed);
    // Multiplies rows `first` to `first + count - 1` with all columns.
    void (*multiply)(int32_t type, int64_t width, int64_t n, const char * rows, int64_t first, int64_t count,
                     const void * packed, char * out, size_t out_stride);
    // Returns the bytes that a thread needs for attention; 0 if there is no kernel.
    size_t (*attention_scratch)(int64_t key_width, int64_t value_width, int64_t queries);
    int64_t (*attention_tiles)(const modelve_attention * operands);
    void (*attention)(const modelve_attention * operands, int64_t tile, float * scratch);
};

namespace {

// The most rows in a tile of the kernels.
constexpr int64_t ROWS = 16;
// Maximum number of rows that a thread takes at a time. More rows make longer sequential reads, but
// the other threads wait longer for the last one.
constexpr int64_t CHUNK = 256;

modelve_matmul kernels;

struct traits : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        const ggml_tensor * w = op->src[0];
        // 64 more bytes, to align the packed columns to a cache line.
        size = kernels.packed_size(w->type, w->ne[0], op->src[1]->ne[1]) + 64;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref) {
            return false;
        }
        const ggml_tensor * w = op->src[0];
        const ggml_tensor * x = op->src[1];
        const int64_t width = w->ne[0];
        const int64_t n     = x->ne[1];
        const int64_t rows  = w->ne[1];
        void * packed = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(params->wdata) + 63) / 64 * 64);

        kernels.pack(w->type, width, n, static_cast<const char *>(x->data), x->nb[1], params->ith, params->nth, packed);

        if (params->ith == 0) {
            // Every thread starts with the chunk of its own index; the rest are handed out from there.
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);

        const int64_t fair = (rows / (4 * params->nth) + ROWS - 1) / ROWS * ROWS;
        const int64_t size = std::clamp(fair, ROWS, CHUNK);
        for (int64_t chunk = params->ith; chunk * size < rows;
             chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t row = chunk * size;
            kernels.multiply(w->type, width, n, static_cast<const char *>(w->data), row, std::min(size, rows - row),
                             packed, static_cast<char *>(op->data), op->nb[1]);
        }
        return true;
    }
};

struct attention_traits : ggml::cpu::tensor_traits {
    // The bytes of a thread, whole cache lines.
    static size_t scratch(const ggml_tensor * op) {
        const size_t size = kernels.attention_scratch(op->src[1]->ne[0], op->src[2]->ne[0], op->src[0]->ne[1]);
        return (size + 63) / 64 * 64;
    }

    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        size = threads * scratch(op) + 64;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref) {
            return false;
        }
        const ggml_tensor * q    = op->src[0];
        const ggml_tensor * k    = op->src[1];
        const ggml_tensor * v    = op->src[2];
        const ggml_tensor * mask = op->src[3];

        modelve_attention operands = {};
        operands.q           = q->data;
        operands.k           = k->data;
        operands.v           = v->data;
        operands.out         = op->data;
        operands.out_stride  = op->nb[1];
        operands.key_width   = k->ne[0];
        operands.value_width = v->ne[0];
        operands.queries     = q->ne[1];
        operands.keys        = k->ne[1];
        operands.heads       = q->ne[2];
        operands.kv_heads    = k->ne[2];
        operands.batches     = q->ne[3];
        operands.kv_batches  = k->ne[3];
        for (int i = 0; i < 3; i++) {
            operands.q_strides[i] = q->nb[i + 1];
            operands.k_strides[i] = k->nb[i + 1];
            operands.v_strides[i] = v->nb[i + 1];
        }
        if (mask != nullptr) {
            operands.mask         = mask->data;
            operands.mask_heads   = mask->ne[2];
            operands.mask_batches = mask->ne[3];
            for (int i = 0; i < 3; i++) {
                operands.mask_strides[i] = mask->nb[i + 1];
            }
        }
        memcpy(&operands.scale, op->op_params, sizeof(float));

        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);

        char * work    = reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(params->wdata) + 63) / 64 * 64);
        float * memory = reinterpret_cast<float *>(work + params->ith * scratch(op));
        const int64_t tiles = kernels.attention_tiles(&operands);
        for (int64_t tile = params->ith; tile < tiles; tile = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            kernels.attention(&operands, tile, memory);
        }
        return true;
    }

    // Whether it is attention without what is rare: biases by distance, caps, sinks, other caches.
    static bool takes(const ggml_tensor * op) {
        const ggml_tensor * q    = op->src[0];
        const ggml_tensor * k    = op->src[1];
        const ggml_tensor * v    = op->src[2];
        const ggml_tensor * mask = op->src[3];
        float bias_and_cap[2];
        memcpy(bias_and_cap, reinterpret_cast<const float *>(op->op_params) + 1, sizeof(bias_and_cap));
        return bias_and_cap[0] == 0 && bias_and_cap[1] == 0 && op->src[4] == nullptr && q->type == GGML_TYPE_F32 &&
               op->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 &&
               q->nb[0] == sizeof(float) && op->nb[0] == sizeof(float) && k->nb[0] == 2 && v->nb[0] == 2 &&
               q->ne[2] % k->ne[2] == 0 && q->ne[3] % k->ne[3] == 0 && k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3] &&
               q->ne[0] == k->ne[0] && k->ne[1] == v->ne[1] && op->ne[0] == v->ne[0] &&
               (mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->nb[0] == 2 && mask->ne[0] >= k->ne[1] &&
                                    mask->ne[1] >= q->ne[1])) &&
               scratch(op) > 0;
    }
};

struct buffer_type : ggml::cpu::extra_buffer_type {
    // Returns false, so that no weights are allocated in buffers of this type.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor *) override { return false; }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static traits           instance;
        static attention_traits attention;
        if (op->op == GGML_OP_FLASH_ATTN_EXT) {
            return attention_traits::takes(op) ? &attention : nullptr;
        }
        if (op->op != GGML_OP_MUL_MAT) {
            return nullptr;
        }
        const ggml_tensor * w = op->src[0];
        const ggml_tensor * x = op->src[1];
        const bool plain = ggml_is_quantized(w->type) && x->type == GGML_TYPE_F32 && op->type == GGML_TYPE_F32 &&
                           w->ne[2] * w->ne[3] * x->ne[2] * x->ne[3] == 1 && ggml_is_contiguous(w) &&
                           x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float);
        // Weights that were repacked for another kernel are in buffers that are not host buffers.
        const bool in_file_layout = w->buffer == nullptr || ggml_backend_buffer_is_host(w->buffer);
        if (plain && in_file_layout && kernels.packed_size(w->type, w->ne[0], x->ne[1]) > 0) {
            return &instance;
        }
        return nullptr;
    }
};

const char * name(ggml_backend_buffer_type_t) {
    return "modelve";
}

} // namespace

// Must be called once, before anything is computed. Where the CPU backend is a library, this function
// is part of that library, and the program looks it up by name.
#ifdef _WIN32
__declspec(dllexport)
#endif
extern "C" void modelve_register_matmul(modelve_matmul table) {
    kernels = table;
    static buffer_type context;
    static ggml_backend_buffer_type type = {
        /* .iface   = */ { name, nullptr, nullptr, nullptr, nullptr, nullptr },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ &context,
    };
    ggml_backend_cpu_get_extra_buffer_types().push_back(&type);
}
