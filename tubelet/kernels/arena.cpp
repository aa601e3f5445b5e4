// Memory that torch's CPU tensors take again and again.
//
// torch asks the C library for each tensor, which takes large ones from the system and gives them back: every run of a
// network pays for every page of its maps anew. Between `arena_enter` and `arena_leave` the tensors that a thread makes
// come from blocks that earlier ones have left; what is freed there is kept, what is freed elsewhere goes back.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

namespace {

constexpr size_t least = 64 << 10;    // bytes of a tensor; the C library is quick with smaller ones
constexpr size_t huge_page = 2 << 20;
constexpr size_t most_waste = 4;      // a block may be so many times as large as the tensor

thread_local int depth = 0;

std::mutex mutex;
std::multimap<size_t, void*> kept;           // blocks that are free, by size
std::unordered_map<void*, size_t> lent;      // blocks that are not

void* take(size_t size) {
    std::lock_guard<std::mutex> guard(mutex);
    auto found = kept.lower_bound(size);
    if (found == kept.end() || found->first / most_waste > size) {
        // in place of one that is too small, so that the blocks grow to what is needed and do not become more
        if (found != kept.begin() && std::prev(found)->first >= size / most_waste) {
            std::free(std::prev(found)->second);
            kept.erase(std::prev(found));
        }
        const size_t page = size < 2 * huge_page ? least : huge_page, whole = (size + page - 1) / page * page;
        void* block = std::aligned_alloc(page, whole);
        if (!block) return nullptr;
        if (page == huge_page) madvise(block, whole, MADV_HUGEPAGE);
        lent.emplace(block, whole);
        return block;
    }
    void* block = found->second;
    lent.emplace(block, found->first);
    kept.erase(found);
    return block;
}

void give(void* block) {
    std::lock_guard<std::mutex> guard(mutex);
    const auto found = lent.find(block);
    if (depth)
        // before others of its size: what was used last is still in the processor's cache
        kept.emplace_hint(kept.lower_bound(found->second), found->second, block);
    else
        std::free(block);
    lent.erase(found);
}

c10::Allocator* usual;

void give_any(void* memory) {
    bool is_ours;
    {
        std::lock_guard<std::mutex> guard(mutex);
        is_ours = lent.count(memory);
    }
    is_ours ? give(memory) : usual->raw_deleter()(memory);
}

struct Door : c10::Allocator {
    c10::DataPtr allocate(size_t size) override {
        void* block = depth && size >= least ? take(size) : nullptr;
        return block ? c10::DataPtr(block, block, give, c10::Device(c10::DeviceType::CPU)) : usual->allocate(size);
    }
    c10::DeleterFnPtr raw_deleter() const override { return give_any; }
    void copy_data(void* to, const void* from, size_t size) const override { usual->copy_data(to, from, size); }
};
Door door;

}  // namespace

extern "C" {

void arena_install() {
    std::lock_guard<std::mutex> guard(mutex);
    if (usual) return;  // by another thread
    usual = c10::GetCPUAllocator();
    // a process that is forked while another thread holds the lock would wait for it for ever
    pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
    c10::SetCPUAllocator(&door);
}

void arena_enter() { depth++; }

void arena_leave() { depth--; }

void arena_trim() {
    std::lock_guard<std::mutex> guard(mutex);
    for (const auto& [size, block] : kept) std::free(block);
    kept.clear();
}

// Bytes of the blocks that are kept.
int64_t arena_size() {
    std::lock_guard<std::mutex> guard(mutex);
    int64_t sum = 0;
    for (const auto& [size, block] : kept) sum += size;
    return sum;
}

}
