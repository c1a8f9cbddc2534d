// The rows of tests/bad_arguments.tsv by the C++ ways in: the same error and message as from Python. The format is told
// in tests/test_ways_in.py. Usage: test_ways_in <bad_arguments.tsv>. Exits with 0 if every row was right.
#include <torch_maxpool/maxpool.h>

#include <torch/torch.h>

#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using torch::Tensor;
using Ints = std::vector<int64_t>;
using Row = std::map<std::string, std::string>;

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> cells;
  size_t begin = 0;
  for (size_t tab; (tab = line.find('\t', begin)) != std::string::npos; begin = tab + 1) {
    cells.push_back(line.substr(begin, tab - begin));
  }
  cells.push_back(line.substr(begin));
  return cells;
}

std::vector<Row> read_rows(const char* path) {
  std::ifstream file(path);
  if (!file) {
    throw std::runtime_error(std::string("cannot read ") + path);
  }
  std::string line;
  std::getline(file, line);
  const auto names = split(line);
  std::vector<Row> rows;
  while (std::getline(file, line)) {
    const auto cells = split(line);
    Row row;
    for (size_t i = 0; i < names.size(); ++i) {
      row[names[i]] = cells.at(i);
    }
    rows.push_back(row);
  }
  return rows;
}

// "[1, 2]" or nothing.
Ints ints(std::string text) {
  for (char& c : text) {
    c = c == '[' || c == ']' || c == ',' ? ' ' : c;
  }
  std::istringstream stream(text);
  Ints list;
  for (int64_t value; stream >> value;) {
    list.push_back(value);
  }
  return list;
}

// "float32 [1, 1, 4]": zeros that take no memory, on `device`.
Tensor tensor(const std::string& cell, torch::Device device) {
  static const std::map<std::string, torch::ScalarType> dtypes{
      {"float32", torch::kFloat},
      {"uint8", torch::kByte},
      {"int32", torch::kInt},
      {"int64", torch::kLong},
      {"complex64", torch::kComplexFloat},
      {"uint16", torch::kUInt16},
      {"uint32", torch::kUInt32},
      {"uint64", torch::kUInt64},
      {"float8_e4m3fn", torch::kFloat8_e4m3fn},
  };
  const auto space = cell.find(' ');
  const auto sizes = ints(cell.substr(space));
  const auto options = torch::dtype(dtypes.at(cell.substr(0, space))).device(device);
  return torch::zeros(sizes.empty() ? Ints{} : Ints{1}, options).expand(sizes);
}

// A row's arguments, and the names under which it is called.
struct Call {
  std::string name;
  std::function<void(const Tensor&, const Tensor&)> run; // input or grad_output, offsets
};

template <size_t D>
void add_functions(const Row& row, std::vector<Call>& calls) {
  const auto list = [&](const char* name) { return ints(row.at(name)); };
  const auto expanded = [](Ints entries) { return entries.size() == 1 ? Ints(D, entries[0]) : entries; };
  const auto kernel_size = expanded(list("kernel_size"));
  const auto stride = list("stride").empty() ? kernel_size : expanded(list("stride"));
  const auto padding = expanded(list("padding"));
  const auto dilation = expanded(list("dilation"));
  // torch's option types take one entry per dimension and no others.
  if (stride.size() != D || padding.size() != D || dilation.size() != D || row.at("auto_pad") != "explicit") {
    return;
  }
  const auto options = torch::nn::MaxPoolOptions<D>(kernel_size)
                           .stride(stride)
                           .padding(padding)
                           .dilation(dilation)
                           .ceil_mode(row.at("ceil_mode") == "True");
  const bool exact = row.at("exact") == "True";
  const auto add = [&](const std::string& name, auto function) {
    calls.push_back({name, [=](const Tensor& x, const Tensor&) { function(x, options, exact); }});
  };
  const bool values_need_no_offsets = row.at("name") == "window_beyond_int32";
  if constexpr (D == 1) {
    if (!values_need_no_offsets) {
      add("max_pool1d", torch_maxpool::max_pool1d);
    }
    add("max_pool1d_with_indices", torch_maxpool::max_pool1d_with_indices);
  } else if constexpr (D == 2) {
    add("max_pool2d", torch_maxpool::max_pool2d);
    add("max_pool2d_with_indices", torch_maxpool::max_pool2d_with_indices);
  } else {
    add("max_pool3d", torch_maxpool::max_pool3d);
    add("max_pool3d_with_indices", torch_maxpool::max_pool3d_with_indices);
  }
  add("module", [](const Tensor& x, const torch::nn::MaxPoolOptions<D>& o, bool e) {
    return torch_maxpool::MaxPoolImpl<D>(o, e).forward_with_indices(x);
  });
}

std::vector<Call> calls_of(const Row& row) {
  const auto kernel_size = ints(row.at("kernel_size"));
  const auto stride = ints(row.at("stride"));
  const auto padding = ints(row.at("padding"));
  const auto dilation = ints(row.at("dilation"));
  const bool ceil_mode = row.at("ceil_mode") == "True";
  const bool exact = row.at("exact") == "True";
  const auto auto_pad = row.at("auto_pad");
  std::vector<c10::SymInt> size;
  for (const int64_t entry : ints(row.at("size"))) {
    size.emplace_back(entry);
  }
  const auto& op = row.at("operator");
  std::vector<Call> calls;
  if (op == "backward") {
    calls.push_back({"maxpool_backward", [=](const Tensor& grad, const Tensor& offsets) {
                       torch_maxpool::maxpool_backward(
                           grad, offsets, size, kernel_size, stride, padding, dilation, ceil_mode, auto_pad);
                     }});
  } else if (op == "gather") {
    calls.push_back({"maxpool_gather", [=](const Tensor& x, const Tensor& offsets) {
                       torch_maxpool::maxpool_gather(
                           x, offsets, kernel_size, stride, padding, dilation, ceil_mode, auto_pad);
                     }});
  } else if (op == "indices") {
    calls.push_back({"maxpool_indices", [=](const Tensor&, const Tensor& offsets) {
                       torch_maxpool::maxpool_indices(
                           offsets, size, kernel_size, stride, padding, dilation, ceil_mode, auto_pad);
                     }});
  } else {
    calls.push_back({"maxpool_forward", [=](const Tensor& x, const Tensor&) {
                       torch_maxpool::maxpool_forward(
                           x, kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad);
                     }});
    if (row.at("name") != "window_beyond_int32") {
      calls.push_back({"maxpool_values", [=](const Tensor& x, const Tensor&) {
                         torch_maxpool::maxpool_values(
                             x, kernel_size, stride, padding, dilation, ceil_mode, exact, auto_pad);
                       }});
    }
    switch (kernel_size.size()) {
      case 1:
        add_functions<1>(row, calls);
        break;
      case 2:
        add_functions<2>(row, calls);
        break;
      case 3:
        add_functions<3>(row, calls);
        break;
      default:
        break;
    }
  }
  return calls;
}

// What is wrong with how `call` fails; empty where it fails as the row says.
std::string judge(const Row& row, const std::function<void()>& call) {
  std::string type;
  std::string text;
  try {
    call();
    return "nothing was raised";
  } catch (const c10::ValueError& error) {
    type = "ValueError";
    text = error.what_without_backtrace();
  } catch (const c10::TypeError& error) {
    type = "TypeError";
    text = error.what_without_backtrace();
  } catch (const c10::Error& error) {
    type = "RuntimeError";
    text = error.what_without_backtrace();
  }
  const auto colon = text.find(": ");
  const bool named = colon != std::string::npos && text.compare(0, 8, "maxpool_") == 0;
  if (!named || type != row.at("error") || text.substr(colon + 2) != row.at("message")) {
    return type + ": " + text;
  }
  return "";
}

} // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "usage: test_ways_in <bad_arguments.tsv>\n";
    return 2;
  }
  int failed = 0;
  int passed = 0;
  for (const auto& row : read_rows(arguments[1])) {
    for (const auto& call : calls_of(row)) {
      for (const std::string way : {"cpu", "grad", "no_grad", "meta"}) {
        const torch::Device device(way == "meta" ? "meta" : "cpu");
        const auto& cell = row.at("tensor");
        Tensor input = cell.empty() ? Tensor() : tensor(cell, device);
        if ((way == "grad" || way == "no_grad") && input.defined()) {
          if (input.scalar_type() != torch::kFloat || input.numel() > 1000) {
            continue;
          }
          input = input.clone().requires_grad_();
        }
        const torch::AutoGradMode mode(way != "no_grad");
        const Tensor offsets = row.at("offsets").empty() ? Tensor() : tensor(row.at("offsets"), device);
        const auto wrong = judge(row, [&] { call.run(input, offsets); });
        if (wrong.empty()) {
          ++passed;
        } else {
          ++failed;
          std::cout << "FAILED " << row.at("name") << ", " << call.name << ", " << way << ": " << wrong << "\n  wanted "
                    << row.at("error") << ": " << row.at("message") << "\n";
        }
      }
    }
  }
  std::cout << passed << " calls failed as they should, " << failed << " did not\n";
  return failed == 0 && passed > 500 ? 0 : 1;
}
