// Memory of a space for std::pmr containers that end with the visit.
#ifndef SPACEJMP_SCRATCH_HPP
#define SPACEJMP_SCRATCH_HPP

#include <cstddef>

#include <spacejmp/allocator.hpp>

// libc++ before 16 has none.
#if __has_include(<memory_resource>)
#include <memory_resource>

namespace sj {

// For results on the way that are too large for the program's memory. It must not be stored, nor a
// container that uses it: its address, and that of its virtual functions, mean nothing to the next program.
// Such a container cannot be part of a root; `storable.hpp` refuses it.
class scratch : public std::pmr::memory_resource {
  private:
    void *do_allocate(std::size_t bytes, std::size_t alignment) override {
        return detail::allocate(bytes, alignment);
    }
    void do_deallocate(void *memory, std::size_t, std::size_t) override { vas_free(memory); }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
        return dynamic_cast<const scratch *>(&other) != nullptr;
    }
};

} // namespace sj
#endif

#endif
