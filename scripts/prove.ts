import { runConformance } from './conformance.ts';
import { allSuites, type Choice, conclude, runSuites } from './suites.ts';

/** These boot a kernel of their own, for device-mapper. */
const inSecondKernel = ['second-kernel'];
/** What logical volumes share with files, on files: inside the second kernel the same is run over logical volumes. */
const alsoOnFiles = [
  ...['crash-points', 'undo', 'protection-table', 'host-lock', 'host-boot'],
  ...['rescue', 'resize-rebuild', 'compute-api-replace', 'server-images', 'compute-api-images'],
  ...['exchange-disks', 'disk-placement', 'planned-disks', 'storage-options'],
];
const withoutAnyDisk = ['dm-crypt', 'root-helper', 'privileged-shapes', 'helper-protocol', 'packaging'];

/** What each capability's evidence is, on real components, all of it: test files by parts of their paths. */
const capabilities: Readonly<Record<string, Choice>> = {
  'main-job': { only: null, except: inSecondKernel },
  lvm: { only: [...inSecondKernel, ...alsoOnFiles, ...withoutAnyDisk], except: ['volume'] },
  'block-storage': {
    only: ['block-storage', 'volume', 'device', 'backup', 'rekey-header', 'storage-driver', 'encryptor'],
    except: inSecondKernel,
  },
  rbd: { only: ['rbd', 'ceph'], except: inSecondKernel },
};

const [name = '', word] = process.argv.slice(2);
const evidence = capabilities[name];
if (name === 'conformance') {
  const totals = await runConformance(process.argv.slice(3));
  if (totals) conclude(name, totals);
}
if (!evidence) {
  process.stderr.write(`usage: npm run prove -- ${Object.keys(capabilities).join('|')} [WORD]\n`);
  process.stderr.write('       npm run prove -- conformance --area volumes [WORD]\n');
  process.exit(2);
}
const only = word === undefined ? evidence.only : [word];
conclude(name, await runSuites(allSuites, 'all', { only, except: evidence.except }));
