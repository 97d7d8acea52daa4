// Finding and loading plugins, and running their methods: the host's side of plugin.h.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/engine/engine.hpp"
#include "ptq/plugin.h"
#include "ptq/run/host_services.hpp"
#include "ptq/run/options.hpp"

namespace ptq {

struct SkippedFile {
  std::filesystem::path path;
  std::string reason;
};

// What a plugin says of one of its methods.
struct MethodInfo {
  std::string name, version, summary, paper;
  std::string plugin_file;  // path of the .so
  uint64_t capabilities = 0, traits = 0;
  std::vector<OptionSpec> options;
  const ptq_method* table = nullptr;

  bool can_weights() const { return capabilities & PTQ_CAN_WEIGHTS; }
  bool can_kv() const { return capabilities & PTQ_CAN_KV; }
  bool lossless() const { return traits & PTQ_LOSSLESS; }
};

// One instance of a method with its options.
class MethodInstance {
 public:
  MethodInstance(const MethodInfo& info, nlohmann::ordered_json options, uint64_t seed)
      : info_(info), host_(info.name, std::move(options), seed) {
    const std::string json = host_.options().dump();
    host_.invoke("create", [&](const ptq_call* call) {
      return info_.table->create(call, json.c_str(), &method_);
    });
  }
  ~MethodInstance() {
    try {
      host_.invoke("destroy", [&](const ptq_call* call) {
        info_.table->destroy(method_, call);
        return PTQ_OK;
      });
    } catch (const Error& e) {
      std::fprintf(stderr, "warning: %s\n", e.what());
    }
  }
  MethodInstance(const MethodInstance&) = delete;
  MethodInstance& operator=(const MethodInstance&) = delete;

  const MethodInfo& info() const { return info_; }
  bool lossless() const { return info_.lossless(); }
  // Largest sums of bytes that the plugin held at one time through call->alloc.
  uint64_t peak_scratch() const { return host_.peak_scratch(); }
  uint64_t peak_bookkeeping() const { return host_.peak_bookkeeping(); }

  // The KV half for a model, or nullptr when the method has none. Lives as long as the instance.
  KvMethod* kv(const ModelConfig& config) {
    const auto* table = static_cast<const ptq_kv*>(info_.table->get(method_, PTQ_KV_1));
    if (!table) return nullptr;
    kv_ = std::make_unique<Kv>(
        *this, table,
        static_cast<const ptq_kv_calibration*>(info_.table->get(method_, PTQ_KV_CALIBRATION_1)),
        config);
    return kv_.get();
  }
  // The weights half, or nullptr.
  WeightMethod* weights() {
    const auto* table = static_cast<const ptq_weights*>(info_.table->get(method_, PTQ_WEIGHTS_1));
    if (!table) return nullptr;
    weights_ = std::make_unique<Weights>(*this, table);
    return weights_.get();
  }

 private:
  static ptq_tensor matrix_view(const float* x, std::initializer_list<int64_t> shape) {
    ptq_tensor t{};
    t.data = const_cast<float*>(x);
    t.dtype = {PTQ_FLOAT, 32, 1};
    t.ndim = int32_t(shape.size());
    t.device_type = PTQ_CPU;
    t.flags = PTQ_READ_ONLY;
    std::fill(t.shape, t.shape + 6, 1);
    std::copy(shape.begin(), shape.end(), t.shape);
    int64_t stride = 1;
    for (int i = 5; i >= 0; --i) {
      t.stride[i] = stride;
      stride *= t.shape[i];
    }
    return t;
  }

  class Kv final : public KvMethod {
   public:
    Kv(MethodInstance& owner, const ptq_kv* table, const ptq_kv_calibration* calibration,
       const ModelConfig& c)
        : owner_(owner),
          table_(table),
          calibration_(calibration),
          heads_(c.num_key_value_heads),
          dim_(c.head_dim) {
      require_host_device(table->devices);
      const ptq_kv_shape shape{sizeof shape, 0, c.num_hidden_layers, c.num_key_value_heads,
                               c.head_dim};
      ptq_kv_policy out[2] = {};
      for (auto& p : out) p = {sizeof p, PTQ_POST_ROPE, 0, 0, 1, 0, 0};
      owner_.host_.invoke("policy", [&](const ptq_call* call) {
        return table_->policy(owner_.method_, call, &shape, &out[0], &out[1]);
      });
      for (int side = 0; side < 2; ++side) {
        const ptq_kv_policy& p = out[side];
        if (p.sink < 0 || p.window < 0 || p.block < 1 || p.key_space > PTQ_PRE_ROPE)
          throw owner_.host_.plugin_error(
              "policy",
              "answers with sink " + std::to_string(p.sink) + ", window " +
                  std::to_string(p.window) + ", block " + std::to_string(p.block) + ", key space " +
                  std::to_string(p.key_space),
              "sink and window are at least 0, block at least 1, key_space is PTQ_POST_ROPE or "
              "PTQ_PRE_ROPE");
        const auto has = [&](uint32_t flag) { return (p.flags & flag) != 0; };
        const uint32_t known = PTQ_KV_CURRENT | PTQ_KV_HADAMARD | PTQ_KV_EVICTS | PTQ_KV_REWRITES;
        if ((p.flags & ~known) != 0)
          throw owner_.host_.plugin_error("policy",
                                          "sets unknown flags " + std::to_string(p.flags & ~known),
                                          "this host knows PTQ_KV_* of version 1.1");
        if (has(PTQ_KV_HADAMARD) && calibration_)
          throw owner_.host_.plugin_error("policy", "sets PTQ_KV_HADAMARD and wants calibration",
                                          "samples are not rotated; rotate in the method");
        policy_[side] = {p.sink,
                         p.window,
                         p.block,
                         side == 0 && p.key_space == PTQ_PRE_ROPE,
                         has(PTQ_KV_CURRENT),
                         has(PTQ_KV_HADAMARD),
                         has(PTQ_KV_EVICTS),
                         has(PTQ_KV_REWRITES)};
      }
      const KvPolicy &k = policy_[0], &v = policy_[1];
      if (k.evicts != v.evicts || (k.evicts && (k.sink != v.sink || k.window != v.window ||
                                                k.block != v.block || k.current != v.current)))
        throw owner_.host_.plugin_error("policy", "evicts other rows of keys than of values",
                                        "keys and values leave together");
    }
    KvPolicy policy(KvSide side) const override { return policy_[int(side)]; }
    void encode(KvSide side, int layer, int64_t first, int64_t tokens, const float* x,
                RowSink& out) override {
      call(nullptr, side, layer, first, tokens, x, out);
    }
    bool on_cuda() const override { return table_->devices & (1u << PTQ_CUDA); }
    void encode_on(const CudaPlace& place, KvSide side, int layer, int64_t first, int64_t tokens,
                   const float* x, RowSink& out) override {
      call(&place, side, layer, first, tokens, x, out);
    }

   private:
    void call(const CudaPlace* place, KvSide side, int layer, int64_t first, int64_t tokens,
              const float* x, RowSink& out) {
      const int s = int(side);
      const ptq_kv_block block{sizeof block, s, layer, 0, first, tokens};
      ptq_tensor view = matrix_view(x, {heads_, tokens, dim_});
      if (place) {
        view.device_type = PTQ_CUDA;
        view.device_id = place->device_id;
      }
      owner_.host_.invoke(
          "encode",
          [&](const ptq_call* call) {
            return table_->encode(owner_.method_, call, &block, &view, handle(out));
          },
          [&] {
            return "layer " + std::to_string(layer) + (s ? " values" : " keys") + ", positions " +
                   std::to_string(first) + " to " + std::to_string(first + tokens - 1);
          },
          place);
    }
    Wants wants() const override {
      const uint32_t wants = calibration_ ? calibration_->wants : 0;
      return {(wants & PTQ_WANT_SAMPLES) != 0, (wants & PTQ_WANT_FISHER) != 0};
    }
    void calibrate(KvSide side, int layer, int64_t tokens, int64_t length, const float* x,
                   const float* fisher) override {
      if (!calibration_) return;
      const int s = int(side);
      const ptq_kv_block rows{sizeof rows, s, layer, 0, 0, length};
      const ptq_tensor view = matrix_view(x, {tokens, heads_, dim_}),
                       squared = matrix_view(fisher, {tokens, heads_, dim_});
      owner_.host_.invoke(
          "calibrate",
          [&](const ptq_call* call) {
            return calibration_->calibrate(owner_.method_, call, &rows, &view,
                                           fisher ? &squared : nullptr);
          },
          [&] { return "layer " + std::to_string(layer) + (s ? " values" : " keys"); });
    }

    MethodInstance& owner_;
    const ptq_kv* table_;
    const ptq_kv_calibration* calibration_;  // nullptr: the method wants none
    int64_t heads_, dim_;
    KvPolicy policy_[2];
  };

  class Weights final : public WeightMethod {
   public:
    Weights(MethodInstance& owner, const ptq_weights* table) : owner_(owner), table_(table) {
      require_host_device(table->devices);
    }
    void encode(int layer, const std::string& name, const std::string& kind, const float* w,
                int64_t rows, int64_t columns, RowSink& out) override {
      const ptq_tensor view = matrix_view(w, {rows, columns});
      const ptq_linear linear{sizeof linear, layer, name.c_str(), kind.c_str(), &view};
      owner_.host_.invoke(
          "encode",
          [&](const ptq_call* call) {
            return table_->encode(owner_.method_, call, &linear, handle(out));
          },
          [&] { return name; });
    }

   private:
    MethodInstance& owner_;
    const ptq_weights* table_;
  };

  static void require_host_device(uint32_t devices) {
    if (!(devices & (1u << PTQ_CPU)))
      throw environment_error("this method does not run on the CPU", {},
                              "its plugin offers other devices only");
  }

  MethodInfo info_;
  HostSide host_;
  void* method_ = nullptr;
  std::unique_ptr<Kv> kv_;
  std::unique_ptr<Weights> weights_;
};

// All plugins of a list of folders. Libraries are never unloaded: the process ends soon anyway, and
// unloading device code is a known source of silent errors.
class PluginSet {
 public:
  // Folders that do not exist are passed over. A file that cannot be used becomes a SkippedFile
  // with the reason. Of two methods with one name the first found wins.
  static PluginSet scan(const std::vector<std::filesystem::path>& folders) {
    PluginSet set;
    std::vector<std::string> seen;
    for (const auto& folder : folders) {
      std::error_code none;
      std::vector<std::filesystem::path> files;
      for (const auto& entry : std::filesystem::directory_iterator(folder, none))
        if (entry.path().extension() == ".so") files.push_back(entry.path());
      std::sort(files.begin(), files.end());
      for (const auto& file : files) {
        const std::string real = std::filesystem::weakly_canonical(file, none).string();
        if (std::find(seen.begin(), seen.end(), real) != seen.end()) continue;
        seen.push_back(real);
        set.add(file);
      }
    }
    return set;
  }

  const std::vector<MethodInfo>& methods() const { return methods_; }
  const std::vector<SkippedFile>& skipped() const { return skipped_; }
  const MethodInfo* find(const std::string& name) const {
    for (const MethodInfo& m : methods_)
      if (m.name == name) return &m;
    return nullptr;
  }

  // options: complete and valid (validate_options).
  std::unique_ptr<MethodInstance> create(const MethodInfo& info,
                                         const nlohmann::ordered_json& options,
                                         uint64_t seed) const {
    return std::make_unique<MethodInstance>(info, options, seed);
  }

  // Loads one file and returns its methods. Throws with the reason when it cannot be used.
  static std::vector<MethodInfo> load(const std::filesystem::path& file) {
    const std::string path = std::filesystem::absolute(file).string();
    boost::dll::shared_library library;
    try {
      library.load(path, boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
    } catch (const std::exception& e) {
      throw environment_error(
          "cannot be loaded: " + tidy(e.what(), path), {},
          "see which library or symbol is missing with: ldd -r " + file.string());
    }
    if (!library.has("ptq_plugin_v1"))
      throw environment_error("does not export the symbol ptq_plugin_v1", {},
                              "is it a ptq plugin? see docs/abi.md");
    const auto& plugin = library.get<const ptq_plugin>("ptq_plugin_v1");
    // Never unloaded, see above: the list itself is never destroyed.
    static auto& loaded = *new std::vector<boost::dll::shared_library>;
    loaded.push_back(library);
    if (std::memcmp(plugin.magic, "PTQPLUG", 8) != 0)
      throw environment_error("has a wrong magic in ptq_plugin_v1");
    if (plugin.abi_major != PTQ_ABI_MAJOR)
      throw environment_error("was built for ABI " + std::to_string(plugin.abi_major) + "." +
                                  std::to_string(plugin.abi_minor) + ", this host has " +
                                  std::to_string(PTQ_ABI_MAJOR) + "." +
                                  std::to_string(PTQ_ABI_MINOR),
                              {}, "rebuild it against this version of ptq/plugin.h");
    if (plugin.struct_size < offsetof(ptq_plugin, build) || !plugin.methods || !plugin.n_methods)
      throw environment_error("has an incomplete ptq_plugin_v1 (struct_size " +
                              std::to_string(plugin.struct_size) + ", methods " +
                              std::to_string(plugin.n_methods) + ")");
    std::vector<MethodInfo> result;
    for (uint32_t i = 0; i < plugin.n_methods; ++i)
      result.push_back(read_method(*plugin.methods[i]));
    for (MethodInfo& m : result) m.plugin_file = path;
    return result;
  }

 private:
  static std::string tidy(std::string text, const std::string& path) {
    const std::string front = "boost::dll::shared_library::load() failed: ";
    if (text.rfind(front, 0) == 0) text.erase(0, front.size());
    if (text.rfind(path + ": ", 0) == 0) text.erase(0, path.size() + 2);
    const size_t tail = text.find(": Bad file descriptor");
    if (tail != std::string::npos) text.erase(tail);
    return text;
  }

  static MethodInfo read_method(const ptq_method& m) {
    if (m.struct_size < offsetof(ptq_method, get) + sizeof m.get || !m.name || !m.create ||
        !m.destroy || !m.get)
      throw environment_error("describes a method incompletely");
    MethodInfo info;
    info.name = m.name;
    const bool name_ok =
        !info.name.empty() && info.name.size() <= 64 && info.name[0] >= 'a' &&
        info.name[0] <= 'z' && std::all_of(info.name.begin(), info.name.end(), [](char c) {
          return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
        });
    if (!name_ok)
      throw environment_error("has a method with the name \"" + info.name.substr(0, 64) + "\"", {},
                              "names match [a-z][a-z0-9_-]*");
    info.version = m.version ? m.version : "";
    info.summary = m.summary ? m.summary : "";
    info.paper = m.paper ? m.paper : "";
    info.capabilities = m.capabilities;
    info.traits = m.traits;
    info.table = &m;
    for (uint32_t i = 0; i < m.n_options; ++i) {
      const ptq_option& o = *m.options[i];
      OptionSpec spec;
      spec.name = o.name;
      spec.help = o.help ? o.help : "";
      spec.type = o.type == PTQ_OPTION_FLOAT    ? OptionType::real
                  : o.type == PTQ_OPTION_BOOL   ? OptionType::boolean
                  : o.type == PTQ_OPTION_STRING ? OptionType::string
                                                : OptionType::integer;
      spec.has_range = o.min != 0 || o.max != 0;
      spec.min = o.min;
      spec.max = o.max;
      try {
        spec.default_value = nlohmann::ordered_json::parse(o.default_value ? o.default_value : "");
        for (const char* const* a = o.allowed; a && *a; ++a)
          spec.allowed.push_back(nlohmann::ordered_json::parse(*a));
      } catch (const nlohmann::json::exception&) {
        throw environment_error("method " + info.name + ", option " + spec.name +
                                ": default or allowed value is not JSON");
      }
      info.options.push_back(std::move(spec));
    }
    try {  // the declared defaults obey the declared types and ranges
      nlohmann::ordered_json defaults = nlohmann::ordered_json::object();
      for (const OptionSpec& o : info.options) defaults[o.name] = o.default_value;
      validate_options(info.options, defaults, "defaults of " + info.name);
    } catch (const Error& e) {
      throw environment_error("method " + info.name +
                              " declares an invalid default: " + e.message());
    }
    return info;
  }

  // Loads the file in a child process first: whatever it does there cannot hurt the host.
  static std::string crash_reason(const std::filesystem::path& file) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) return {};
    if (child == 0) {
      alarm(10);
      std::freopen("/dev/null", "w", stdout);
      std::freopen("/dev/null", "w", stderr);
      try {
        load(file);
      } catch (...) {
      }
      _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status))
      return WTERMSIG(status) == SIGALRM
                 ? "does not finish loading within 10 s"
                 : "crashes while it is loaded (" + std::string(strsignal(WTERMSIG(status))) + ")";
    if (WEXITSTATUS(status) != 0) return "ends the process while it is loaded";
    return {};
  }

  // While a library is loaded, what it prints goes to stderr: stdout belongs to the host's own
  // answer.
  class StdoutToStderr {
   public:
    StdoutToStderr() : saved_((std::fflush(stdout), dup(1))) { dup2(2, 1); }
    ~StdoutToStderr() {
      std::fflush(stdout);
      dup2(saved_, 1);
      close(saved_);
    }

   private:
    int saved_;
  };

  static bool same_content(const std::filesystem::path& a, const std::filesystem::path& b) {
    std::error_code none;
    if (std::filesystem::file_size(a, none) != std::filesystem::file_size(b, none)) return false;
    std::ifstream fa(a, std::ios::binary), fb(b, std::ios::binary);
    return std::equal(std::istreambuf_iterator<char>(fa), {}, std::istreambuf_iterator<char>(fb));
  }

  void add(const std::filesystem::path& file) {
    for (const MethodInfo& m : methods_)  // a copy in a second folder is nothing to speak of
      if (same_content(m.plugin_file, file)) return;
    if (const std::string reason = crash_reason(file); !reason.empty()) {
      skipped_.push_back({file, reason});
      return;
    }
    try {
      const StdoutToStderr quiet;
      for (MethodInfo& m : load(file)) {
        if (const MethodInfo* other = find(m.name)) {
          skipped_.push_back(
              {file, "method " + m.name + " was already found in " + other->plugin_file});
          continue;
        }
        methods_.push_back(std::move(m));
      }
    } catch (const Error& e) {
      skipped_.push_back({file, e.hint().empty() ? e.message() : e.message() + "; " + e.hint()});
    }
  }

  std::vector<MethodInfo> methods_;
  std::vector<SkippedFile> skipped_;
};

}  // namespace ptq
