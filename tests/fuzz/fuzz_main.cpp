// Calls the fuzzing entry point where there is no libFuzzer, with libFuzzer's options as far as they are used here:
//   fuzz_operators [-runs=N] [-max_total_time=SECONDS] [file or folder]...
// Runs every file, then random changes of them (not guided by coverage) until the number or the time is reached.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int count, char** arguments) {
  namespace fs = std::filesystem;
  using Bytes = std::vector<uint8_t>;
  int64_t runs = -1;
  int64_t seconds = 0;
  std::vector<Bytes> corpus{Bytes(64, 0)};
  const auto read = [&](const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  };
  for (int i = 1; i < count; ++i) {
    const std::string text = arguments[i];
    if (text.rfind("-runs=", 0) == 0) {
      runs = std::stoll(text.substr(6));
    } else if (text.rfind("-max_total_time=", 0) == 0) {
      seconds = std::stoll(text.substr(16));
    } else if (fs::is_directory(text)) {
      for (const auto& entry : fs::directory_iterator(text)) {
        read(entry.path());
      }
    } else {
      read(text);
    }
  }
  for (const auto& bytes : corpus) {
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::mt19937 random(1);
  const auto began = std::chrono::steady_clock::now();
  const auto spent = [&] { return std::chrono::steady_clock::now() - began; };
  int64_t done = 0;
  for (; runs < 0 ? spent() < std::chrono::seconds(seconds) : done < runs; ++done) {
    Bytes bytes = corpus[random() % corpus.size()];
    bytes.resize(std::max<size_t>(16, bytes.size()));
    for (uint32_t changes = 1 + random() % 8; changes > 0; --changes) {
      bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    }
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu files and %lld changes of them\n", corpus.size() - 1, static_cast<long long>(done));
  return 0;
}
