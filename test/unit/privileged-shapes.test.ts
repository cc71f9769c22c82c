import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, describe, test } from 'node:test';
import fc from 'fast-check';
import { diskRoles } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { grantPrivilege } from '#host/grant.ts';
import { type GivenInput, type Hole, holeNames, parseShape, runnerOf } from '#host/privilege.ts';
import { helperShapes, type Shape, serviceShapes } from '#host/privileged-shapes.ts';
import { defaultClearing } from '#host/storage/lvm/clear.ts';
import { lvmStorage } from '#host/storage/lvm/driver.ts';
import { someDisk } from '#test/support/disk-lab.ts';

const STATE = mkdtempSync(join(tmpdir(), 'nightlatch-shapes-'));
after(() => rmSync(STATE, { recursive: true }));
mkdirSync(join(STATE, 'run'));
symlinkSync('/etc', join(STATE, 'way-out'));
symlinkSync('/etc/shadow', join(STATE, 'run/shadow'));
writeFileSync(join(STATE, 'run/file'), '');

const BOUNDS = { volumeGroups: ['vg0', 'more.disks'], thinPools: ['pool'], directories: [STATE] };
const ID = '0b1f8c86-5a39-4c52-9f0d-9a5d7c2f6a11';
const OTHER = 'f2f9b1c0-7a54-4e0b-8a36-2b8f6d0d4c77';

/** Words that fit each hole, and words that must not. */
const words: Record<Hole, { good: readonly string[]; bad: readonly string[] }> = {
  mapping: {
    good: [`nl-${ID}-${OTHER}`],
    bad: ['vg0-root', `nl-${ID}`, `nl-${ID}-${OTHER}x`, `x/nl-${ID}-${OTHER}`, `NL-${ID}-${OTHER}`],
  },
  probe: {
    good: ['nl-probe-12', 'nl-probe-12-crypt'],
    bad: ['nl-probe-', 'vg0-root', 'nl-probe-1-cryptic', '/dev/mapper/nl-probe-1'],
  },
  volume: {
    good: [
      `/dev/vg0/${ID}_disk`,
      `/dev/vg0/volume-${ID}`,
      `/dev/vg0/_snapshot-${ID}.g2`,
      `/dev/more.disks/${ID}_disk.eph0.g2`,
    ],
    bad: [
      `/dev/other/${ID}_disk`,
      '/dev/vg0/root',
      '/dev/sda',
      '/etc/shadow',
      `/dev/vg0/../sda`,
      `/dev/vg0/${ID}_disk/../../sda`,
      `/dev/vg0/${ID}_../x`,
      `vg0/${ID}_disk`,
      `/dev/moreXdisks/${ID}_disk`,
      `/dev/mapper/nl-${ID}-${OTHER}`,
    ],
  },
  'group-volume': {
    good: [`vg0/${ID}_memory`],
    bad: [`other/${ID}_disk`, 'vg0/root', 'vg0', `vg0/${ID}_disk/..`, `/dev/vg0/${ID}_disk`],
  },
  'volume-name': {
    good: [`${ID}_disk.config`, `volume-${ID}.g1`, `_snapshot-${ID}`, `backup-${ID}`, `image-${ID}.g1`],
    bad: [
      'root',
      'volume-1',
      `volume-${ID}.gx`,
      `snapshot-${ID}`,
      `volume-${ID}_disk`,
      `${ID}`,
      `${ID}_`,
      `${ID}_a/b`,
      `${ID}_DISK`,
    ],
  },
  group: { good: ['vg0', 'more.disks'], bad: ['other', 'moreXdisks', 'vg0/root', '@all', '/dev/vg0'] },
  pool: { good: ['pool'], bad: ['other', 'vg0/pool', '/dev/vg0/pool'] },
  selection: {
    good: ['lv_name=~"_"', `lv_name=${ID}_disk`, 'lv_name=pool'],
    bad: ['lv_name=root', 'lv_name=~"."', `lv_name=${ID}_disk || lv_name=root`, 'all', `lv_name=lv_name=pool`],
  },
  fields: { good: ['lv_name,lv_size,lv_tags', 'vg_size'], bad: ['all', 'lv_name,', 'lv_name, lv_size', '+lv_all;x'] },
  tag: {
    good: [`nightlatch:disk:${ID}`, 'nightlatch:note:plain:aes-xts-plain64:512:sha512:4096'],
    bad: ['mine', '@tag', 'nightlatch:disk:1', `nightlatch:note:a b`],
  },
  luks: { good: ['luks1', 'luks2'], bad: ['plain', 'tcrypt', 'bitlk', 'luks'] },
  cipher: {
    good: ['aes-xts-plain64', 'serpent-cbc-plain64'],
    bad: ['cipher_null-ecb-plain', 'null', 'capi:xts(aes)-plain64', 'null-ecb-plain', 'cipher-null-plain'],
  },
  hash: { good: ['sha256', 'sha512'], bad: ['plain', 'md5', 'sha2560'] },
  sector: { good: ['512', '4096'], bad: ['1024', '0', '4096b'] },
  uuid: {
    good: ['0f0e0d0c-0b0a-4908-8706-050403020100'],
    bad: ['0f0e0d0c', '0F0E0D0C-0B0A-4908-8706-050403020100', '--uuid'],
  },
  number: { good: ['0', '4040', '1024'], bad: ['1e9', '0x10', '1 ', '+1', '1'.repeat(16)] },
  bytes: { good: ['16777216b'], bad: ['100%FREE', '16G', '+16b', '16777216'] },
  label: { good: ['ephemeral0', 'x'], bad: ['a'.repeat(17), '/x'] },
  'memory-options': {
    good: ['mode=0700,nodev,nosuid,noexec,noswap'],
    bad: ['mode=0777,nodev,nosuid,noexec', 'mode=0700', 'mode=0700,nodev,nosuid,noexec,suid'],
  },
  file: {
    good: [STATE, `${STATE}/run`, `${STATE}/run/file`, `${STATE}/run/not/there/yet`],
    bad: [
      '/etc/shadow',
      `${STATE}/../x`,
      `${STATE}/run/`,
      `${STATE}//run`,
      `${STATE}/./run`,
      `${STATE}x/run`,
      '/',
      'run/file',
      `${STATE}/way-out`,
      `${STATE}/way-out/shadow`,
      `${STATE}/run/shadow`,
      STATE.slice(0, -1),
    ],
  },
  plaintext: {
    good: [`/dev/mapper/nl-${ID}-${OTHER}`, `/dev/vg0/${ID}_disk`, `${STATE}/run/file`],
    bad: ['/dev/mapper/vg0-root', `nl-${ID}-${OTHER}`, '/dev/sda', '/etc/shadow', `${STATE}/way-out/shadow`],
  },
};

type Item = ReturnType<typeof parseShape>[number];
/** One word of a command, and the hole it fills. */
type Filled = { readonly word: string; readonly hole: Hole | null };

/** Every command that has a shape, by way of what stands in its holes. */
function commands(items: readonly Item[]): fc.Arbitrary<Filled[]> {
  const parts = items.map((item): fc.Arbitrary<Filled[]> => {
    if ('word' in item) return fc.constant([{ word: item.word, hole: null }]);
    if ('some' in item) return fc.array(commands(item.some), { maxLength: item.max }).map((times) => times.flat());
    const { hole } = item;
    return fc.constantFrom(...words[hole].good).map((word) => [{ word, hole }]);
  });
  return fc.tuple(...parts).map((list) => list.flat());
}

/** What a shape takes on standard input. */
function inputOf(shape: Shape): GivenInput {
  if (typeof shape === 'string') return { kind: shape.includes('--key-file=-') ? 'key' : 'none' };
  const { input } = shape;
  if (input === 'key') return { kind: 'key' };
  const texts = ['0 8 error\n', '0 8 crypt aes-xts-plain64 a5a55a5a 0 /dev/mapper/nl-probe-12 0\n'];
  return { kind: 'text', text: texts.find((text) => input.test(text)) ?? '' };
}

/** What must not stand in a hole instead of a word that fits it. */
function wrongWords(hole: Hole, word: string): string[] {
  const longer = [`${word}\n`, `\n${word}`, `${word}\0`, ` ${word}`, `${word}/../x`, `${word}/`, `/${word}`];
  // A file may have a name with a space in it, and a label is any short word.
  const spaced = hole === 'file' || hole === 'plaintext' ? [] : [`${word} x`];
  const strangers = hole === 'label' ? [] : STRANGERS;
  return ['', `-${word}`, `--${word}`, ...words[hole].bad, ...longer, ...spaced, ...strangers];
}

/** In no place of any command: they run code, name a file, a device or a key, ask for more, or are no word at all. */
const STRANGERS = [
  '--config',
  'devices/scan="/"',
  '--header',
  '/etc/shadow',
  '--key-file=/etc/shadow',
  '--key-file',
  '-d',
  '--master-key-file=x',
  '--volume-key-file=/root/x',
  '--showkeys',
  '--dump-volume-key',
  '-S',
  '--reportformat',
  '--profile',
  '--devicesfile=/x',
  '--commandprofile',
  '--external-tokens-path=/tmp',
  '--allow-discards',
  '-o',
  'exec,suid',
  '--bind',
  '-E',
  '-d',
  '--',
  '',
  ' ',
  '-',
  '..',
  '@file',
  '$(id)',
  '`id`',
  ';',
  '\n',
  '-y\n',
  '\0',
  '/dev/sda',
  'vg1',
  '--force',
  'luksDump',
  'erase',
  'luksHeaderBackup',
  '--type=tcrypt',
  '--test',
  '--batch-mode',
];

for (const [runner, list] of [
  ['helper', helperShapes],
  ['service', serviceShapes],
] as const) {
  for (const [program, shapes] of Object.entries(list)) {
    for (const shape of shapes as readonly Shape[]) {
      const line = typeof shape === 'string' ? shape : shape.line;
      const input = inputOf(shape);
      const some = commands(parseShape(line));
      const admitted = (args: readonly string[], given = input) => runnerOf(program, args, given, BOUNDS);

      describe(`${program} ${line.slice(0, 60)}`, () => {
        test('runs as it is written', () => {
          fc.assert(fc.property(some, (words) => admitted(words.map(({ word }) => word)) === runner));
        });

        test('with anything else in a hole is refused', () => {
          const property = fc.property(some, fc.nat(), fc.nat(), (filled, where, what) => {
            const holes = filled.flatMap(({ hole }, i) => (hole === null ? [] : [{ hole, i }]));
            const chosen = holes[where % Math.max(1, holes.length)];
            if (!chosen) return true;
            const { word } = filled[chosen.i] as Filled;
            const wrong = wrongWords(chosen.hole, word);
            const put = wrong[what % wrong.length];
            if (put === undefined) return true;
            return admitted(filled.map(({ word: old }, i) => (i === chosen.i ? put : old))) === null;
          });
          fc.assert(property, { numRuns: 200 });
        });

        test('with one word more, or one less, or another program is refused', () => {
          const property = fc.property(some, fc.nat(), fc.constantFrom(...STRANGERS), (filled, at, stranger) => {
            const args = filled.map(({ word }) => word);
            const more = args.toSpliced(at % (args.length + 1), 0, stranger);
            assert.equal(admitted(more), null, `${more}`);
            assert.equal(admitted(args.slice(0, -1)), null, 'without its last word');
            assert.equal(admitted([...args, args.at(-1) ?? '']), null, 'with its last word twice');
            assert.equal(runnerOf('sh', args, input, BOUNDS), null);
          });
          fc.assert(property, { numRuns: 50 });
        });

        test('gets on standard input what is written, and nothing else', () => {
          fc.assert(
            fc.property(some, fc.string(), (filled, text) => {
              const args = filled.map(({ word }) => word);
              for (const kind of ['none', 'key'] as const)
                if (kind !== input.kind) assert.equal(admitted(args, { kind }), null);
              const texts = [
                text,
                '0 100 linear /dev/sda 0\n',
                '0 8 error\n0 8 linear /dev/sda 0\n',
                '0 8 crypt aes-xts-plain64 a55a 0 /dev/sda 0\n',
              ];
              for (const each of texts) assert.equal(admitted(args, { kind: 'text', text: each }), null);
            }),
          );
        });

        test('touches nothing when nothing was granted', () => {
          const touches = /<(volume|group|group-volume|pool|file)>/.test(line);
          const none = { volumeGroups: [], thinPools: [], directories: [] };
          fc.assert(
            fc.property(
              some,
              (filled) =>
                !touches ||
                runnerOf(
                  program,
                  filled.map(({ word }) => word),
                  input,
                  none,
                ) === null,
            ),
          );
        });
      });
    }
  }
}

test('a logical volume of every kind of disk may be made', () => {
  const driver = lvmStorage({ volumeGroup: 'vg0', thinPool: null, noteOf: () => null, clearing: defaultClearing });
  for (const role of diskRoles) {
    for (const generation of [0, 3]) {
      const { path } = driver.attachment(someDisk({ role, generation, ownerId: ID as ServerId, storage: 'lvm' }));
      const filter = ['--config', 'devices/filter="r|^/dev/mapper/nl-|"'];
      const args = [...filter, '-y', '-V', '4096b', '--thinpool', 'pool', '-n', basename(path), 'vg0'];
      assert.equal(runnerOf('lvcreate', args, { kind: 'none' }, BOUNDS), 'helper', basename(path));
    }
  }
});

test('every kind of hole is tried', () => {
  assert.deepEqual(Object.keys(words).sort(), [...holeNames].sort());
});

test('no shape of the helper names a path where the service could put a link', () => {
  const lines = Object.values(helperShapes)
    .flat()
    .map((shape: Shape) => (typeof shape === 'string' ? shape : shape.line));
  for (const line of lines) assert.doesNotMatch(line, /<(file|plaintext)>/);
});

test('what was not granted is refused before it begins, by a service that is root too', async () => {
  grantPrivilege({ directories: [STATE] });
  const marker = join(STATE, 'run/file');
  for (const args of [['/etc/hostname'], ['--lazy', '/'], ['--lazy', '--all', marker]]) {
    await assert.rejects(run('umount', args, { doing: 'Trying' }), (error) => {
      assert.ok(error instanceof NightlatchError && error.code === 'privilege-refused', String(error));
      return true;
    });
  }
  // One that is granted begins, and fails by itself.
  await assert.rejects(run('umount', [marker], { doing: 'Trying' }), /umount ended with/);
});
