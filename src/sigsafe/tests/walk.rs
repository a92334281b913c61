//! The walk on made-up interpreters, for every row of the layout table.

mod image;

use image::{EVAL, Image, Kind, UNMAPPED, catch_faults, layout, layouts, read_word, write_word};
use spprof_sigsafe::pywalk::{Interrupted, Verified, WalkOutcome, walk};
use spprof_sigsafe::stack::{LEAF_FRAMES, MAX_FRAMES, ROOT_FRAMES, RawFrame, Stack};

fn walk_from(image: &Image, tstate: usize, pc: usize) -> (WalkOutcome, Stack) {
    let mut stack = Stack::new();
    // What an earlier walk left must not show.
    stack.push(RawFrame { code: 1, offset: 1 });
    stack.set_gap(1);
    let outcome =
        walk(&image.runtime(), &mut Verified::new(), tstate, Interrupted { pc, note_entries: true }, &mut stack);
    (outcome, stack)
}

fn assert_broken(image: &Image, tstate: usize, why: &str) {
    let (outcome, stack) = walk_from(image, tstate, 0);
    assert_eq!(outcome, WalkOutcome::Broken, "{why}: {:?}", image.layout);
    assert!(stack.frames().is_empty() && stack.omitted == 0, "{why}: frames of a broken walk");
}

/// All frames, leaf first, with their instructions; shims are left out.
#[test]
fn whole_chain() {
    for layout in layouts() {
        let image = Image::new(layout);
        let mut expected = image.frames(5);
        // CPYTHON: a frame that has not run its first instruction yet.
        expected[0].offset = if layout.minor == 9 { -1 } else { -2 };
        let mut kinds: Vec<Kind> = expected.iter().map(|raw| Kind::Python(*raw)).collect();
        if image.has_shims() {
            for position in [5, 3, 3, 0] {
                kinds.insert(position, Kind::Shim);
            }
        }
        let frames = image.chain(&kinds);
        if layout.frame_tlbc_index.is_some() {
            let third = kinds.iter().position(|kind| *kind == Kind::Python(expected[2])).unwrap();
            image.use_copy(frames[third], expected[2], 2, 3);
        }
        let (outcome, stack) = walk_from(&image, image.tstate(frames[0]), 0);
        assert_eq!((outcome, stack.omitted), (WalkOutcome::Complete, 0), "{layout:?}");
        assert_eq!(stack.frames(), expected, "{layout:?}");
    }
}

/// A thread that runs no Python has an empty stack; a thread state that is none has no stack.
#[test]
fn nothing_to_walk() {
    catch_faults();
    for layout in layouts() {
        let image = Image::new(layout);
        let tstate = image.tstate(0);
        let (outcome, stack) = walk_from(&image, tstate, 0);
        assert_eq!((outcome, stack.frames().len(), stack.omitted), (WalkOutcome::Complete, 0, 0), "{layout:?}");
        for bad in [0, tstate + 4, UNMAPPED, usize::MAX & !7] {
            assert_broken(&image, bad, "a bad thread state");
        }
    }
}

/// Deep stacks keep both ends and say exactly how much is missing between, at every length around the limits.
#[test]
fn both_ends_of_a_deep_stack() {
    for layout in layouts() {
        let image = Image::new(layout);
        for depth in [LEAF_FRAMES, LEAF_FRAMES + 1, MAX_FRAMES, MAX_FRAMES + 1, 100_000] {
            // Codes of their own where frames are kept; the middle shares one.
            let mut frames = vec![RawFrame { code: image.code(), offset: 0 }; depth];
            for at in (0..depth).filter(|at| *at < LEAF_FRAMES || *at >= depth - ROOT_FRAMES) {
                frames[at] = RawFrame { code: image.code(), offset: 2 * at as i64 };
            }
            let mut kinds: Vec<Kind> = frames.iter().map(|raw| Kind::Python(*raw)).collect();
            if image.has_shims() {
                for at in [depth, depth - 3, LEAF_FRAMES, 10] {
                    kinds.insert(at, Kind::Shim);
                }
            }
            let tstate = image.tstate(image.chain(&kinds)[0]);
            let (outcome, stack) = walk_from(&image, tstate, 0);
            assert_eq!(outcome, WalkOutcome::Complete, "{depth}: {layout:?}");
            assert_eq!(stack.omitted as usize, depth.saturating_sub(MAX_FRAMES), "{depth}: {layout:?}");
            let kept = depth.min(MAX_FRAMES);
            assert_eq!(stack.frames().len(), kept);
            assert_eq!(stack.frames()[..LEAF_FRAMES], frames[..LEAF_FRAMES]);
            assert_eq!(stack.frames()[LEAF_FRAMES..], frames[depth - (kept - LEAF_FRAMES)..]);
        }
    }
}

/// A chain that bites its tail ends, wherever the loop is, and long before another sample is due.
#[test]
fn cycles_end() {
    catch_faults();
    let begin = std::time::Instant::now();
    let mut walks = 0;
    for layout in layouts() {
        let image = Image::new(layout);
        let raw = image.frames(1)[0];
        let mut cycles = vec![vec![Kind::Python(raw)], vec![Kind::Python(raw); 1000]];
        if image.has_shims() {
            cycles.push(vec![Kind::Shim; 2]);
        }
        for kinds in cycles {
            let frames = image.chain(&kinds);
            write_word(frames[frames.len() - 1] + layout.frame_previous, frames[0]);
            assert_broken(&image, image.tstate(frames[0]), "a cycle");
            walks += 1;
        }
    }
    // A thousand frames and a half in an unoptimised build; as many steps as the bound allows would take a second.
    assert!(begin.elapsed().as_millis() < 20 * walks, "{:?} for {walks} walks", begin.elapsed());

    // 3.11 and 3.12 look for the frame that C called, in eval's first instructions.
    for layout in [layout(11), layout(12)] {
        let image = Image::new(layout);
        let caller_frame = image.stack(&image.frames(3));
        let tstate = image::block(512);
        let frames = image.chain_on(&[Kind::Python(image.frames(1)[0]); 3], 0);
        write_word(frames[2] + layout.frame_previous, frames[1]);
        image.set_innermost(tstate, frames[0], image.cframe(caller_frame, image.cframe(0, 0)));
        let begin = std::time::Instant::now();
        for _ in 0..1000 {
            assert_eq!(walk_from(&image, tstate, EVAL + 100).0, WalkOutcome::Restarted);
        }
        assert!(begin.elapsed().as_millis() < 500, "{:?} for 1000 walks", begin.elapsed());
    }
}

/// A chain that ends before a frame that C called is no stack: a generator is current and linked to nobody for an instant.
#[test]
fn ends_only_at_the_root() {
    for layout in layouts() {
        let image = Image::new(layout);
        for depth in [1, 5, MAX_FRAMES + 100] {
            let kinds: Vec<Kind> = image.frames(depth).into_iter().map(Kind::Python).collect();
            let frames = image.chain_on(&kinds, 0);
            if layout.minor >= 11 {
                assert_broken(&image, image.tstate(frames[0]), "no root");
            } else {
                assert_eq!(walk_from(&image, image.tstate(frames[0]), 0).0, WalkOutcome::Complete);
            }
        }
    }
}

/// A pointer that leads nowhere, or not to a code object, breaks the walk: near the leaf, in the middle, among the last.
#[test]
fn bad_pointers() {
    catch_faults();
    for layout in layouts() {
        let image = Image::new(layout);
        const DEPTH: usize = 400;
        for at in [0, 1, LEAF_FRAMES - 1, LEAF_FRAMES, 300, DEPTH - 1] {
            let frames = image.chain(&image.frames(DEPTH).into_iter().map(Kind::Python).collect::<Vec<_>>());
            let tstate = image.tstate(frames[0]);
            let (outcome, _) = walk_from(&image, tstate, 0);
            assert_eq!(outcome, WalkOutcome::Complete);
            let previous = frames[at] + layout.frame_previous;
            let below = read_word(previous);
            for bad in [UNMAPPED, 8, frames[0] + 4, 1 << 47, usize::MAX & !7] {
                write_word(previous, bad);
                assert_broken(&image, tstate, "previous");
            }
            write_word(previous, below);
            // Code is not looked at where it is not captured.
            if !(LEAF_FRAMES..DEPTH - ROOT_FRAMES).contains(&at) {
                let other_object = image::block(512);
                for bad in [0, UNMAPPED, other_object, usize::MAX & !7] {
                    write_word(frames[at] + layout.frame_code, bad);
                    assert_broken(&image, tstate, "code");
                }
            }
        }
    }
}

/// A copy of bytecode that its code object does not have breaks the walk (3.14t+).
#[test]
fn bad_bytecode_copies() {
    catch_faults();
    for layout in layouts().filter(|layout| layout.code_tlbc.is_some()) {
        let image = Image::new(layout);
        let raw = image.frames(1)[0];
        let frame = image.stack(&[raw]);
        let tstate = image.tstate(frame);
        image.use_copy(frame, raw, 3, 4);
        assert_eq!(walk_from(&image, tstate, 0).0, WalkOutcome::Complete);
        image.use_copy(frame, raw, 4, 4);
        assert_broken(&image, tstate, "the index is the size");
        for bad in [0, UNMAPPED, usize::MAX & !7] {
            write_word(raw.code + layout.code_tlbc.unwrap(), bad);
            assert_broken(&image, tstate, "the table");
        }
    }
}

/// What was code stays code until code objects are released.
#[test]
fn verified_until_released() {
    let image = Image::new(layout(13));
    let raw = image.frames(1)[0];
    let tstate = image.tstate(image.stack(&[raw]));
    let mut verified = Verified::new();
    let mut walk = |generation| {
        verified.renew(generation);
        walk(&image.runtime(), &mut verified, tstate, Interrupted::default(), &mut Stack::new())
    };
    assert_eq!(walk(1), WalkOutcome::Complete);
    write_word(raw.code + image.layout.ob_type, 0);
    assert_eq!(walk(1), WalkOutcome::Complete, "not looked at again");
    assert_eq!(walk(2), WalkOutcome::Broken);
}

/// 3.11 and 3.12: eval was entered, and its cframe still holds what was on the C stack before. The walk begins at the caller.
#[test]
fn stale_cframe() {
    catch_faults();
    for layout in [layout(11), layout(12)] {
        let image = Image::new(layout);
        let below = image.frames(3);
        let caller_frame = image.stack(&below);
        let caller = image.cframe(caller_frame, image.cframe(0, 0));
        let tstate = image::block(512);
        let restarts = |garbage: usize, pc: usize| {
            image.set_innermost(tstate, garbage, caller);
            let (outcome, stack) = walk_from(&image, tstate, pc);
            assert_eq!(outcome, WalkOutcome::Restarted, "{garbage:#x}: {layout:?}");
            assert_eq!(stack.frames(), below);
        };
        for garbage in [8, UNMAPPED, caller + 4, usize::MAX & !7, image::block(512)] {
            restarts(garbage, 0);
        }

        // A frame that was popped looks like a frame, but lies above the data stack's top.
        let chunk = image::block(16 * 1024);
        let popped = chunk + 8192;
        image.frame_at(popped, Kind::Python(image.frames(1)[0]), caller_frame);
        image.set_datastack(tstate, chunk, popped);
        restarts(popped, 0);
        image.set_datastack(tstate, chunk, popped + 128);
        image.set_innermost(tstate, popped, caller);
        assert_eq!(walk_from(&image, tstate, 0).0, WalkOutcome::Complete, "below the top it is a frame");

        // A live chain that eval was not called from, seen in eval's first instructions.
        let elsewhere = image.frames(2);
        let kinds: Vec<Kind> = match layout.frame_is_entry {
            Some(_) => elsewhere.iter().map(|raw| Kind::Python(*raw)).collect(),
            None => vec![Kind::Python(elsewhere[0]), Kind::Shim, Kind::Python(elsewhere[1])],
        };
        let frames = image.chain(&kinds);
        if layout.frame_is_entry.is_some() {
            image.set_entry(frames[0]);
        }
        restarts(frames[0], EVAL + 100);
        assert_eq!(walk_from(&image, tstate, EVAL + 4096).0, WalkOutcome::Complete, "past the first instructions");
        // The same chain, called from where eval's caller is.
        let entry = usize::from(layout.frame_is_entry.is_none());
        write_word(frames[entry] + layout.frame_previous, caller_frame);
        let (outcome, stack) = walk_from(&image, tstate, EVAL + 100);
        assert_eq!(outcome, WalkOutcome::Complete);
        assert_eq!(stack.frames()[0], elsewhere[0]);
        assert_eq!(stack.frames()[1..], below);

        // The outermost call of eval: at its first instructions nothing of Python is on the stack yet, later something is.
        image.set_innermost(tstate, UNMAPPED, image.cframe(0, 0));
        let (outcome, stack) = walk_from(&image, tstate, EVAL + 100);
        assert_eq!((outcome, stack.frames()), (WalkOutcome::Restarted, &[][..]));
        assert_broken(&image, tstate, "a frame that is not found");

        // Nothing to begin at.
        image.set_innermost(tstate, UNMAPPED, image.cframe(UNMAPPED, image.cframe(0, 0)));
        assert_broken(&image, tstate, "both are bad");
        image.set_innermost(tstate, caller_frame, UNMAPPED + 4);
        assert_broken(&image, tstate, "the caller's cframe is none");
    }
}
