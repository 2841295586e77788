#include "kernels_run.h"

#if defined(__linux__)
#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <regex.h>  // <regex> takes a compiler longer than a test
#endif

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>

#include "common/launch.h"

namespace segfast::test {

std::vector<std::string> kernels_not_run() {
  std::vector<std::string> names;
#if defined(__linux__)
  std::ifstream file("/proc/self/exe", std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  const std::string program = bytes.str();
  const auto at = [&](size_t offset) { return program.data() + offset; };
  const auto& header = *reinterpret_cast<const ElfW(Ehdr)*>(at(0));
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(at(header.e_shoff));
  // Kernels, and no other function, end so and take one struct of parameters.
  regex_t kernel;
  regcomp(&kernel, R"(_kernel(<.*>)?\([[:alnum:]_:() ]*Params(<.*>)?\)$)",
          REG_EXTENDED | REG_NOSUB);
  for (int s = 0; s < header.e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const char* strings = at(sections[sections[s].sh_link].sh_offset);
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(at(sections[s].sh_offset));
    for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; ++i) {
      if ((symbols[i].st_info & 0xf) != STT_FUNC) continue;
      const std::unique_ptr<char, void (*)(void*)> text(
          abi::__cxa_demangle(strings + symbols[i].st_name, nullptr, nullptr, nullptr), std::free);
      if (text == nullptr || regexec(&kernel, text.get(), 0, nullptr, 0) != 0) continue;
      const auto address =
          reinterpret_cast<const void*>(_r_debug.r_map->l_addr + symbols[i].st_value);
      if (host_run::kernels_run().count(address) == 0) names.push_back(text.get());
    }
  }
  regfree(&kernel);
#endif
  return names;
}

}  // namespace segfast::test
