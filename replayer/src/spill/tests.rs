//! The allocator beside the one that is in use: whence it takes memory, that it keeps what is written, and what it says.

use std::alloc::{GlobalAlloc as _, Layout};
use std::fs::File;
use std::path::Path;
use std::thread;

use rustix::mm::{Advice, madvise};

use super::arena::{Arena, Refused};
use super::heap::SpillingHeap;
use super::{file, within};

/// Small, so that it is grown over often.
const CHUNK_BYTES: usize = 1 << 20;

fn spill_file() -> File {
    file::create(Path::new("/var/tmp")).expect("a file in /var/tmp")
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

/// An allocation, and what is written all over it.
struct Block {
    memory: *mut u8,
    layout: Layout,
    seed: u8,
}

impl Block {
    fn fill(memory: *mut u8, layout: Layout, seed: u8) -> Self {
        assert!(!memory.is_null());
        assert_eq!(memory.addr() % layout.align(), 0, "{layout:?}");
        // SAFETY: it was just allocated with this layout.
        unsafe { memory.write_bytes(seed, layout.size()) };
        Self { memory, layout, seed }
    }

    fn is_intact(&self) -> bool {
        // SAFETY: it is allocated, and was filled.
        let bytes = unsafe { std::slice::from_raw_parts(self.memory, self.layout.size()) };
        bytes.iter().all(|byte| *byte == self.seed)
    }
}

// SAFETY: whoever has it is the only one who has it.
unsafe impl Send for Block {}

#[test]
fn an_arena_keeps_what_is_in_it_however_it_grows() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut arena = Arena::new();
    let addresses = arena.begin(spill_file(), CHUNK_BYTES).expect("address space");
    let mut blocks: Vec<Block> = Vec::new();
    for step in 0..20_000_u32 {
        if random.u8(..) < 110 && !blocks.is_empty() {
            let block = blocks.swap_remove(random.usize(..blocks.len()));
            assert!(block.is_intact(), "step {step}");
            // SAFETY: it was allocated by this arena, and is forgotten.
            unsafe { arena.deallocate(block.memory, block.layout) };
            continue;
        }
        let size = match random.u8(..) {
            0 => random.usize(CHUNK_BYTES / 2..CHUNK_BYTES * 3),
            1..20 => random.usize(1..100_000),
            _ => random.usize(1..500),
        };
        let align = 1 << random.u8(0..if step % 50 == 0 { 17 } else { 5 });
        let layout = layout(size, align);
        // SAFETY: the size is not 0.
        let memory = unsafe { arena.allocate(layout) }.expect("room").as_ptr();
        assert!(addresses.contains(&memory.addr()) && addresses.contains(&(memory.addr() + size - 1)));
        blocks.push(Block::fill(memory, layout, random.u8(..)));
        if step == 10_000 {
            // What memory is short of is written out, and read back.
            // SAFETY: the mapping of this arena, whose content does not change by this.
            unsafe {
                madvise(
                    addresses.start as *mut _,
                    arena.mapped_bytes(),
                    Advice::LinuxPageOut,
                )
            }
            .expect("page out");
        }
    }
    assert!(blocks.iter().all(Block::is_intact));
    assert!(
        arena.mapped_bytes() > 8 * CHUNK_BYTES,
        "{} bytes",
        arena.mapped_bytes()
    );
    assert_eq!(arena.mapped_bytes() % CHUNK_BYTES, 0);
}

#[test]
fn an_arena_without_a_file_and_one_that_cannot_grow_say_so() {
    let mut arena = Arena::new();
    // SAFETY: the size is not 0.
    let refused = unsafe { arena.allocate(layout(8, 8)) };
    assert!(matches!(refused, Err(Refused::NoPlace)), "{refused:?}");
    let read_only = File::open("/proc/self/exe").expect("open");
    arena.begin(read_only, CHUNK_BYTES).expect("address space");
    // SAFETY: the size is not 0.
    let refused = unsafe { arena.allocate(layout(8, 8)) };
    assert!(matches!(refused, Err(Refused::Full(_))), "{refused:?}");
    assert_eq!(arena.mapped_bytes(), 0);
}

/// Allocates within a fold, or not; says whether it came from the file.
fn allocate(heap: &SpillingHeap, size: usize, is_folding: bool) -> (Block, bool) {
    let layout = layout(size, 8);
    // SAFETY: the size is not 0.
    let work = || unsafe { heap.alloc(layout) };
    let memory = if is_folding { within(work) } else { work() };
    (Block::fill(memory, layout, 7), heap.is_in_arena(memory.addr()))
}

fn resize(heap: &SpillingHeap, block: Block, size: usize, is_folding: bool) -> (Block, bool) {
    let kept = size.min(block.layout.size());
    // SAFETY: it was allocated by this heap with this layout, and is forgotten.
    let work = || unsafe { heap.realloc(block.memory, block.layout, size) };
    let memory = if is_folding { within(work) } else { work() };
    assert!(!memory.is_null());
    let layout = layout(size, 8);
    let seed = block.seed;
    let of_old = Block {
        memory,
        layout: self::layout(kept, 8),
        seed,
    };
    assert!(of_old.is_intact(), "{kept} bytes were not kept");
    (Block::fill(memory, layout, seed), heap.is_in_arena(memory.addr()))
}

fn free(heap: &SpillingHeap, block: Block) {
    assert!(block.is_intact());
    // SAFETY: it was allocated by this heap with this layout, and is forgotten.
    unsafe { heap.dealloc(block.memory, block.layout) };
}

#[test]
fn only_a_fold_beyond_the_bound_goes_to_the_file() {
    let heap = SpillingHeap::new();
    heap.set_file(spill_file(), CHUNK_BYTES).expect("address space");
    let (without_a_bound, is_spilled) = allocate(&heap, 4 << 20, true);
    assert!(!is_spilled && heap.news().is_none());
    free(&heap, without_a_bound);

    heap.set_bound(8 << 20);
    let (first, is_spilled) = allocate(&heap, 5 << 20, true);
    assert!(!is_spilled);
    let (second, is_spilled) = allocate(&heap, 5 << 20, true);
    assert!(is_spilled);
    let news = heap.news().expect("news");
    assert!(news.began && !news.unable && news.full.is_none(), "{news:?}");
    assert!(heap.news().is_none(), "told twice");
    let (third, is_spilled) = allocate(&heap, 5 << 20, false);
    assert!(!is_spilled, "what is no fold has no bound");
    free(&heap, first);
    free(&heap, third);
    let (fourth, is_spilled) = allocate(&heap, 5 << 20, true);
    assert!(!is_spilled, "what was given back is not counted any more");
    free(&heap, second);
    free(&heap, fourth);
}

#[test]
fn what_grows_and_shrinks_keeps_its_content_wherever_it_goes() {
    let heap = SpillingHeap::new();
    heap.set_file(spill_file(), CHUNK_BYTES).expect("address space");
    let (block, is_spilled) = allocate(&heap, 1000, true);
    assert!(!is_spilled);
    heap.set_bound(0);
    let (block, is_spilled) = resize(&heap, block, 900, true);
    assert!(!is_spilled, "what shrinks stays");
    let (block, is_spilled) = resize(&heap, block, 5000, true);
    assert!(is_spilled, "from the heap to the file");
    let (block, is_spilled) = resize(&heap, block, 3 << 20, true);
    assert!(is_spilled, "within the file, over a chunk");
    let (block, is_spilled) = resize(&heap, block, 2 << 20, false);
    assert!(is_spilled, "what shrinks stays");
    // The second half of the file is taken, so that it cannot grow where it lies.
    let (in_the_way, _) = allocate(&heap, 4 << 20, true);
    let (block, is_spilled) = resize(&heap, block, 9 << 20, false);
    assert!(!is_spilled, "from the file to the heap");
    free(&heap, block);
    free(&heap, in_the_way);

    // SAFETY: the size is not 0.
    let zeroed = within(|| unsafe { heap.alloc_zeroed(layout(3 << 20, 64)) });
    assert!(heap.is_in_arena(zeroed.addr()));
    let block = Block {
        memory: zeroed,
        layout: layout(3 << 20, 64),
        seed: 0,
    };
    assert!(block.is_intact(), "what was used before is zeroed");
    free(&heap, block);
}

#[test]
fn another_thread_may_give_back() {
    let heap = SpillingHeap::new();
    heap.set_file(spill_file(), CHUNK_BYTES).expect("address space");
    heap.set_bound(0);
    thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let heap = &heap;
        scope.spawn(move || receiver.into_iter().for_each(|block| free(heap, block)));
        for size in 0..5000 {
            let (block, is_spilled) = allocate(heap, 1 + size % 700, true);
            assert!(is_spilled);
            sender.send(block).expect("the other thread");
        }
    });
    let (block, _) = allocate(&heap, CHUNK_BYTES, true);
    free(&heap, block);
}

#[test]
fn where_the_file_cannot_grow_the_heap_helps_out_and_that_is_said() {
    let heap = SpillingHeap::new();
    heap.set_bound(0);
    let (block, is_spilled) = allocate(&heap, 1000, true);
    assert!(!is_spilled);
    let news = heap.news().expect("news");
    assert!(news.unable && !news.began && news.full.is_none(), "{news:?}");
    free(&heap, block);
    let (block, _) = allocate(&heap, 1000, true);
    assert!(heap.news().is_none(), "told twice");
    free(&heap, block);

    let heap = SpillingHeap::new();
    let read_only = File::open("/proc/self/exe").expect("open");
    heap.set_file(read_only, CHUNK_BYTES).expect("address space");
    heap.set_bound(0);
    let (block, is_spilled) = allocate(&heap, 1000, true);
    assert!(!is_spilled);
    for _ in 0..2 {
        let news = heap.news().expect("news, again and again");
        assert!(news.full.is_some() && !news.began && !news.unable, "{news:?}");
    }
    free(&heap, block);
}
