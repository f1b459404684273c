// Exceptions. Each names the object and what was being done; `code()` has the error number.
#ifndef SPACEJMP_ERROR_HPP
#define SPACEJMP_ERROR_HPP

#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

namespace sj {

// A call failed. `what` says what was being done, with which object, and why it failed; `code` has the error
// number alone.
class error : public std::system_error {
  public:
    error(int number, const std::string &doing)
        : error(number, std::make_shared<const std::string>(doing + ": " +
                                                            std::generic_category().message(number))) {}
    const char *what() const noexcept override { return text_->c_str(); }

  protected:
    // Shared, as copying an exception must not throw.
    error(int number, std::shared_ptr<const std::string> text)
        : std::system_error(number, std::generic_category()), text_(std::move(text)) {}

  private:
    std::shared_ptr<const std::string> text_;
};

// The root object of a space, or a named object, is of another type than the program's: EPROTOTYPE.
class wrong_type : public error {
  public:
    explicit wrong_type(const std::string &text) : error(EPROTOTYPE, std::make_shared<const std::string>(text)) {}
};

// A writer of a raw space died inside, and nobody has repaired what it left (space::recover): EOWNERDEAD.
class owner_died : public error {
  public:
    explicit owner_died(const std::string &text) : error(EOWNERDEAD, std::make_shared<const std::string>(text)) {}
};

// There is no VM around the program: ENOSYS.
class not_in_a_vm : public error {
  public:
    explicit not_in_a_vm(const std::string &doing)
        : error(ENOSYS, std::make_shared<const std::string>(
                            doing + ": not in a VM: start the program with `spacejmp run`")) {}
};

namespace detail {

[[noreturn]] inline void fail(const std::string &doing, int number) {
    if (number == ENOSYS)
        throw not_in_a_vm(doing);
    throw error(number, doing);
}

[[noreturn]] inline void fail(const std::string &doing) { fail(doing, errno); }

} // namespace detail
} // namespace sj

#endif
