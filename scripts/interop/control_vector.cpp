// Completes a text greedily with control vectors that llama.cpp's own loader
// (`common_control_vector_load`) read and its own adapter (`llama_set_adapter_cvec`) adds, as its
// programs do for --control-vector-scaled. Built and run by scripts/check-control-vectors.
//
// Arguments: MODEL.gguf N ID,ID,... FILE SCALE [FILE SCALE]...
// Prints the ids of the tokens that follow, or exits with 1.

#include "build-info.h"
#include "common.h"
#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

// llama.cpp's build writes these four; its common library only refers to them.
int llama_build_number(void) { return 0; }
const char * llama_commit(void) { return ""; }
const char * llama_compiler(void) { return ""; }
const char * llama_build_target(void) { return ""; }

int main(int argc, char ** argv) {
    if (argc < 6 || argc % 2 != 0) {
        std::fprintf(stderr, "usage: %s MODEL.gguf N IDS FILE SCALE [FILE SCALE]...\n", argv[0]);
        return 2;
    }
    const int n = std::atoi(argv[2]);
    std::vector<llama_token> tokens;
    std::istringstream ids(argv[3]);
    for (std::string id; std::getline(ids, id, ',');) {
        tokens.push_back(std::atoi(id.c_str()));
    }
    std::vector<common_control_vector_load_info> files;
    for (int i = 4; i + 1 < argc; i += 2) {
        files.push_back({ (float) std::atof(argv[i + 1]), argv[i] });
    }

    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    llama_model_params loading = llama_model_default_params();
    // Weights as the file has them: rearranged ones round otherwise.
    loading.use_extra_bufts = false;
    llama_model * model = llama_model_load_from_file(argv[1], loading);
    if (!model) return 1;
    llama_context_params params = llama_context_default_params();
    // A model with two sets of RoPE factors takes the long ones in a context longer than it was first trained on.
    params.n_ctx = 256;
    params.n_threads = params.n_threads_batch = 2;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) return 1;

    const common_control_vector_data vector = common_control_vector_load(files);
    if (vector.n_embd == -1) return 1;
    // Layers as llama.cpp's programs choose them by default: from 1 to the last.
    if (llama_set_adapter_cvec(context, vector.data.data(), vector.data.size(), vector.n_embd, 1, llama_model_n_layer(model)) != 0) {
        return 1;
    }

    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int n_vocab = llama_vocab_n_tokens(vocab);
    llama_batch batch = llama_batch_get_one(tokens.data(), (int) tokens.size());
    llama_token next = 0;
    for (int i = 0; i < n; i++) {
        if (llama_decode(context, batch) != 0) return 1;
        const float * logits = llama_get_logits_ith(context, -1);
        next = 0;
        for (int id = 1; id < n_vocab; id++) {
            if (logits[id] > logits[next]) next = id;
        }
        if (llama_vocab_is_eog(vocab, next)) break;
        std::printf("%d ", next);
        batch = llama_batch_get_one(&next, 1);
    }
    std::printf("\n");
    llama_free(context);
    llama_model_free(model);
    return 0;
}
