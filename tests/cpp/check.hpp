// What the C++ tests share.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sonew.hpp>

// Ends the program unless the condition holds.
#define CHECK(...)                                                               \
  do {                                                                           \
    if (!(__VA_ARGS__)) {                                                        \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
      std::exit(1);                                                              \
    }                                                                            \
  } while (0)

// The expression throws this status, and this message.
#define THROWS(number, text, ...)                                                 \
  do {                                                                            \
    bool thrown = false;                                                          \
    try {                                                                         \
      __VA_ARGS__;                                                                \
    } catch (const sonew::error &error) {                                         \
      thrown = true;                                                              \
      if (error.status() != (number) || std::string(error.what()).find(text) == std::string::npos) { \
        std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, error.status_name(), error.what()); \
        std::exit(1);                                                             \
      }                                                                           \
      CHECK(std::string(error.status_name()) == #number);                         \
    }                                                                             \
    CHECK(thrown);                                                                \
  } while (0)
