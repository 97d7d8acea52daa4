// SHA-256 of bytes and files, by OpenSSL's libcrypto.
#pragma once

#include <openssl/evp.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ptq/core/error.hpp"
#include "ptq/core/mapped_file.hpp"

namespace ptq {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }

  Sha256& update(std::string_view bytes) {
    check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
    return *this;
  }

  // 64 lower-case hex digits; ends the object's use.
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    check(EVP_DigestFinal_ex(context_.get(), digest, &length) == 1);
    std::string text;
    for (unsigned i = 0; i < length; ++i) {
      text += "0123456789abcdef"[digest[i] >> 4];
      text += "0123456789abcdef"[digest[i] & 15];
    }
    return text;
  }

 private:
  static void check(bool ok) {
    if (!ok) throw Error(ExitCode::internal, "libcrypto could not compute a SHA-256");
  }
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

inline std::string sha256_hex(std::string_view bytes) { return Sha256().update(bytes).hex(); }

// Hash of the first `limit` bytes of a file (all of it by default).
inline std::string sha256_file(const std::filesystem::path& path, uint64_t limit = UINT64_MAX) {
  std::ifstream in = open_file(path);
  if (!in) throw environment_error("cannot read the file", path.string());
  Sha256 hash;
  std::vector<char> buffer(1 << 20);
  while (in && limit > 0) {
    in.read(buffer.data(), std::streamsize(std::min<uint64_t>(buffer.size(), limit)));
    hash.update({buffer.data(), size_t(in.gcount())});
    limit -= uint64_t(in.gcount());
  }
  if (in.bad()) throw environment_error("cannot read the file to its end", path.string());
  return hash.hex();
}

}  // namespace ptq
