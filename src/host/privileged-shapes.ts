/**
 * Every command that may run with privilege, as a command line with holes: `<hole>` stands for one word of that kind
 * (see privilege.ts), `[…]` for words that may be absent, `{…}` for words that may come any number of times. All else is
 * taken to the letter. Standard input takes a key where the line says `--key-file=-`, the text that `input` describes
 * where there is one, and otherwise nothing.
 *
 * The programs named here run by no other shape, whoever runs the service. All other programs run with no more rights
 * than the service has, which is none where it is not root.
 */
export type Shape = string | { readonly line: string; readonly input: RegExp | 'key' };
export type Shapes = Readonly<Record<string, readonly Shape[]>>;

const WORKQUEUES = '[--perf-no_read_workqueue] [--perf-no_write_workqueue]';
const CIPHER = '--cipher <cipher> --key-size <number> --hash <hash>';
/** See volumes.ts. */
const FILTER = '--config devices/filter="r|^/dev/mapper/nl-|"';
const REPORT = '--noheadings --units b --nosuffix --separator |';

/**
 * What the root helper runs for a service that is not root. No path in it lies where the service could put a link, and no
 * option runs a program or names a file: keys come by standard input, devices are volumes of ours, mappings have our names.
 */
export const helperShapes = {
  cryptsetup: [
    `open --type plain ${CIPHER} --sector-size <sector> --size <number> ${WORKQUEUES} --key-file=- <volume> <mapping>`,
    `open --type <luks> ${WORKQUEUES} --key-file=- <volume> <mapping>`,
    'open --type <luks> --test-passphrase --key-file=- <volume>',
    `luksFormat -q --type luks2 --offset <number> --sector-size <sector> ${CIPHER} --pbkdf pbkdf2 --pbkdf-force-iterations <number> --key-file=- <volume>`,
    'resize --size <number> --key-file=- <mapping>',
    'close <mapping>',
    'luksResume --key-file=- <mapping>',
  ],
  dmsetup: [
    'info -c --noheadings --separator | -o name,open',
    // Without --showkeys.
    'table <mapping>',
    'wipe_table <mapping>',
    'suspend <mapping>',
    'message <mapping> 0 key wipe',
    'clear <mapping>',
    'resume <mapping>',
    'remove --deferred <mapping>',
    { line: 'create <probe>', input: /^0 8 error\n$/ },
    {
      line: 'create <probe>',
      input: /^0 8 crypt [a-z0-9]+-[a-z0-9]+-[a-z0-9]+ (a5)+(5a)+ 0 \/dev\/mapper\/nl-probe-\d{1,10} 0\n$/,
    },
    'remove --force <probe>',
  ],
  lvs: [`${FILTER} ${REPORT} -o <fields> --select <selection> <group>`],
  vgs: [`${FILTER} ${REPORT} -o <fields> <group>`],
  lvcreate: [
    `${FILTER} -y -Wy -Zy -L <bytes> {--addtag <tag>} -n <volume-name> <group>`,
    `${FILTER} -y -V <bytes> --thinpool <pool> {--addtag <tag>} -n <volume-name> <group>`,
  ],
  lvextend: [`${FILTER} -y -L <bytes> <group-volume>`],
  lvremove: [`${FILTER} -f -y <group-volume>`],
} as const satisfies Shapes;

/**
 * What only a service runs itself, with the rights it has: these name files below directories of its own, which the
 * helper could not trust to stay what they were when it looked, or devices that the service may open anyway.
 */
export const serviceShapes = {
  cryptsetup: [
    `luksFormat -q --type luks1 --offset <number> ${CIPHER} --pbkdf-force-iterations <number> --key-file=- <file>`,
    'open --type luks1 --test-passphrase --key-file=- <file>',
    'open -v --type <luks> --test-passphrase --key-file=- <file>',
    // The new key comes by descriptor 3.
    'luksAddKey -q [--pbkdf pbkdf2] --pbkdf-force-iterations <number> --hash <hash> --key-file=- <file> /dev/fd/3',
    'luksKillSlot -q <file> <number>',
    'luksUUID -q --uuid <uuid> <file>',
    'luksDump <file>',
  ],
  // A whole table, its key in it: it could name any device, so the helper does not take it.
  dmsetup: [{ line: 'reload <mapping>', input: 'key' }],
  blkdiscard: ['--zeroout [--offset <number>] --length <number> <volume>'],
  shred: ['--iterations 3 --size <number> <volume>'],
  mount: ['-t tmpfs -o <memory-options> nightlatch <file>', '--make-shared <file>'],
  umount: ['<file>', '--lazy <file>'],
  mkswap: ['--quiet --label swap <plaintext>'],
  'mkfs.ext4': ['-q -F -L <label> -E nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 <plaintext>'],
} as const satisfies Shapes;

export type HelperProgram = keyof typeof helperShapes;
export type PrivilegedProgram = HelperProgram | keyof typeof serviceShapes;
