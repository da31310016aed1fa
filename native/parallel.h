// Work split over threads, which stops when the caller wants to.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace rag {

// Asked now and then by the calling thread; throws to stop the work (Python: a signal such as Ctrl-C came in).
using Interrupt = std::function<void()>;

// Calls work(task, thread) for each task of 0..tasks-1, on `threads` threads of which the caller is number 0.
// A task should take a few milliseconds at most. The first exception stops everything and is thrown here.
template <class Work>
void parallel(size_t tasks, size_t threads, const Interrupt& interrupt, Work work) {
    using Clock = std::chrono::steady_clock;
    constexpr auto patience = std::chrono::milliseconds(50);
    std::atomic<size_t> next{0};
    std::atomic<bool> stop{false};
    std::exception_ptr failure;
    std::mutex failing;

    const auto run = [&](size_t thread) {
        try {
            auto asked = Clock::now();
            for (size_t task; !stop && (task = next++) < tasks;) {
                work(task, thread);
                if (thread == 0 && Clock::now() - asked > patience) {
                    interrupt();
                    asked = Clock::now();
                }
            }
        } catch (...) {
            stop = true;
            const std::lock_guard lock(failing);
            if (!failure) failure = std::current_exception();
        }
    };
    const size_t useful = std::max<size_t>(std::min(threads, tasks), 1);
    std::vector<std::thread> others;
    others.reserve(useful - 1);
    try {
        while (others.size() + 1 < useful) others.emplace_back(run, others.size() + 1);
    } catch (const std::system_error&) {
        // The system has no more threads to give: those there are do all the work.
    }
    run(0);
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace rag
