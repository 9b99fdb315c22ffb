;; A filter that does what the first four letters of an event's name, or of its settings, say; with `slow` it starts the more
;; slowly, the longer the settings are. By hand, so that the tests of the host need no toolchain. Layouts: the component
;; model's Canonical ABI.
;;
;; Memory: 16 the answer of `filter`, 48 of `init`, 256 one edit, 1024 texts, 4096 the settings, 8192 further edits,
;; from 65536 what is passed in.
(module
  (import "pixelgate:filter/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 65536))
  (global $calls (mut i32) (i32.const 0))
  (global $settings_len (mut i32) (i32.const 0))
  (data (i32.const 1024) "told to")
  (data (i32.const 1040) "told to fail")
  (data (i32.const 1060) "custom_data.touched")
  (data (i32.const 1090) "\ff\fe\fd")

  (func (export "cabi_realloc") (param $old i32) (param $old_len i32) (param $align i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $len)))
    (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
      (then
        (if (i32.eq (memory.grow (i32.add (i32.div_u (local.get $len) (i32.const 65536)) (i32.const 1))) (i32.const -1))
          (then (unreachable)))))
    (local.get $at))

  ;; init(config) -> result<_, string>
  (func (export "pixelgate:filter/handler@0.1.0#init") (param $config i32) (param $len i32) (result i32)
    (local $tag i32)
    (memory.copy (i32.const 4096) (local.get $config) (local.get $len))
    (global.set $settings_len (local.get $len))
    (global.set $free (i32.const 65536))
    ;; The settings are a JSON string: its letters begin after the quote.
    (local.set $tag (i32.load (i32.const 4097)))
    (if (i32.eq (local.get $tag) (i32.const 0x706f6f6c (; loop ;))) (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $tag) (i32.const 0x70617274 (; trap ;))) (then (unreachable)))
    (if (i32.eq (local.get $tag) (i32.const 0x73746165 (; eats ;))) (then (call $eat)))
    (if (i32.eq (local.get $tag) (i32.const 0x776f6c73 (; slow ;)))
      (then (call $spin (i32.mul (local.get $len) (i32.const 200000)))))
    (if (i32.eq (local.get $tag) (i32.const 0x6c696166 (; fail ;)))
      (then
        (i32.store8 (i32.const 48) (i32.const 1))
        (i32.store (i32.const 52) (i32.const 1040))
        (i32.store (i32.const 56) (i32.const 12))))
    (i32.const 48))

  ;; filter(context, event) -> result<verdict, string>; the event's name is at 32.
  (func (export "pixelgate:filter/handler@0.1.0#filter") (param $arguments i32) (result i32)
    (local $tag i32)
    (local.set $tag (i32.load (i32.load offset=32 (local.get $arguments))))
    (global.set $free (i32.const 65536))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (memory.fill (i32.const 16) (i32.const 0) (i32.const 16))
    (if (i32.eq (local.get $tag) (i32.const 0x706f6f6c (; loop ;))) (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $tag) (i32.const 0x70617274 (; trap ;))) (then (unreachable)))
    (if (i32.eq (local.get $tag) (i32.const 0x75636572 (; recu ;))) (then (drop (call $recurse (i32.const 1)))))
    (if (i32.eq (local.get $tag) (i32.const 0x73746165 (; eats ;))) (then (call $eat)))
    (if (i32.eq (local.get $tag) (i32.const 0x72616f68 (; hoar ;))) (then (drop (memory.grow (i32.const 130)))))
    (if (i32.eq (local.get $tag) (i32.const 0x6e697073 (; spin ;))) (then (call $spin (i32.const 1000000))))
    (if (i32.eq (local.get $tag) (i32.const 0x6f6f6c66 (; floo ;))) (then (call $flood)))
    (if (i32.eq (local.get $tag) (i32.const 0x73796173 (; says ;)))
      (then (call $log (i32.const 3) (i32.const 1040) (i32.const 12)) (unreachable)))
    (if (i32.eq (local.get $tag) (i32.const 0x6c696166 (; fail ;)))
      (then
        (i32.store8 (i32.const 16) (i32.const 1))
        (i32.store (i32.const 20) (i32.const 1040))
        (i32.store (i32.const 24) (i32.const 12))))
    (if (i32.eq (local.get $tag) (i32.const 0x706f7264 (; drop ;)))
      (then (call $answer_drop (i32.const 1024) (i32.const 7))))
    (if (i32.eq (local.get $tag) (i32.const 0x62726167 (; garb ;)))
      (then (call $answer_drop (i32.const 1090) (i32.const 3))))
    (if (i32.eq (local.get $tag) (i32.const 0x6f686365 (; echo ;)))
      (then (call $answer_drop (i32.const 4096) (global.get $settings_len))))
    (if (i32.eq (local.get $tag) (i32.const 0x6e756f63 (; coun ;)))
      (then (call $digits (global.get $calls)) (call $answer_drop (i32.const 1100) (i32.const 4))))
    (if (i32.eq (local.get $tag) (i32.const 0x74696465 (; edit ;))) (then (call $answer_edits (i32.const 1))))
    (if (i32.eq (local.get $tag) (i32.const 0x796e616d (; many ;))) (then (call $answer_edits (i32.const 65))))
    (if (i32.eq (local.get $tag) (i32.const 0x65677568 (; huge ;))) (then (call $answer_huge)))
    (i32.const 16))

  (func $answer_drop (param $text i32) (param $len i32)
    (i32.store8 (i32.const 20) (i32.const 1))
    (i32.store (i32.const 24) (local.get $text))
    (i32.store (i32.const 28) (local.get $len)))

  ;; So many times: set `custom_data.touched` to true.
  (func $answer_edits (param $count i32)
    (local $at i32) (local $left i32)
    (local.set $at (i32.const 8192))
    (local.set $left (local.get $count))
    (loop $next
      (i32.store8 (local.get $at) (i32.const 0))
      (i32.store offset=8 (local.get $at) (i32.const 1060))
      (i32.store offset=12 (local.get $at) (i32.const 19))
      (i32.store8 offset=16 (local.get $at) (i32.const 2))
      (i32.store8 offset=24 (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 32)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left)))
    (call $answer_modify (local.get $count)))

  ;; 500 removals that all name one text of 4 MiB.
  (func $answer_huge
    (local $at i32) (local $left i32)
    (drop (memory.grow (i32.const 64)))
    (memory.fill (i32.const 131072) (i32.const 97) (i32.const 4194304))
    (local.set $at (i32.const 8192))
    (local.set $left (i32.const 500))
    (loop $next
      (i32.store8 (local.get $at) (i32.const 1))
      (i32.store offset=8 (local.get $at) (i32.const 131072))
      (i32.store offset=12 (local.get $at) (i32.const 4194304))
      (local.set $at (i32.add (local.get $at) (i32.const 32)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left)))
    (call $answer_modify (i32.const 500)))

  (func $answer_modify (param $count i32)
    (i32.store8 (i32.const 20) (i32.const 2))
    (i32.store (i32.const 24) (i32.const 8192))
    (i32.store (i32.const 28) (local.get $count)))

  ;; Asks for memory until there is none, as an allocator that gives up.
  (func $eat
    (loop $more
      (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (unreachable))

  (func $recurse (param $depth i32) (result i32)
    (i32.add (call $recurse (i32.add (local.get $depth) (i32.const 1))) (local.get $depth)))

  (func $spin (param $rounds i32)
    (loop $next
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $next (local.get $rounds))))

  (func $flood
    (local $left i32)
    (memory.fill (i32.const 16384) (i32.const 97) (i32.const 40000))
    (local.set $left (i32.const 1000))
    (loop $next
      (call $log (i32.const 2) (i32.const 16384) (i32.const 40000))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left))))

  ;; Four decimal digits at 1100.
  (func $digits (param $number i32)
    (local $at i32)
    (local.set $at (i32.const 1103))
    (loop $next
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (br_if $next (i32.ge_u (local.get $at) (i32.const 1100))))))
