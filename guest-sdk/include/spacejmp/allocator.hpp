// The allocator of what is stored: the heap of the space that the calling thread is in.
#ifndef SPACEJMP_ALLOCATOR_HPP
#define SPACEJMP_ALLOCATOR_HPP

#include <spacejmp.h>

#include <cstddef>
#include <limits>
#include <new>
#include <type_traits>

#include <spacejmp/error.hpp>

namespace sj {
namespace detail {

// Memory of the space the thread is in. Throws std::bad_alloc if there is none left there, and
// sj::error where the thread may not allocate: at home (EPERM), in a reading visit (EACCES).
inline void *allocate(std::size_t bytes, std::size_t alignment) {
    void *memory = alignment > 16 ? vas_aligned_alloc(alignment, bytes) : vas_malloc(bytes);
    if (memory != nullptr)
        return memory;
    if (errno == ENOMEM)
        throw std::bad_alloc();
    fail("allocate in a space: only inside `write`");
}

} // namespace detail

// Stateless, as an address of the program's would mean nothing to the next one. Pointers are plain: a
// segment is at the same addresses in every program.
template <class T> class allocator {
  public:
    using value_type = T;
    using is_always_equal = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;

    constexpr allocator() noexcept = default;
    template <class Other> constexpr allocator(const allocator<Other> &) noexcept {}

    [[nodiscard]] T *allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / 2 / sizeof(T))
            throw std::bad_array_new_length();
        return static_cast<T *>(detail::allocate(count * sizeof(T), alignof(T)));
    }

    void deallocate(T *memory, std::size_t) noexcept { vas_free(memory); }
};

template <class A, class B> constexpr bool operator==(const allocator<A> &, const allocator<B> &) noexcept {
    return true;
}
template <class A, class B> constexpr bool operator!=(const allocator<A> &, const allocator<B> &) noexcept {
    return false;
}

} // namespace sj

#endif
