import { glob, readFile } from 'node:fs/promises';

type Rule = {
  readonly says: string;
  readonly pattern: RegExp;
  readonly in: string;
  readonly except: readonly string[];
};

/** What a reviewer would say every time, said by a machine. */
const rules: readonly Rule[] = [
  {
    says: 'only src/host/exec.ts starts programs',
    pattern: /from 'node:child_process'/,
    in: 'src/**/*.ts',
    except: ['src/host/exec.ts'],
  },
  { says: 'no default exports', pattern: /^export default/m, in: '{src,test,scripts,bench}/**/*.ts', except: [] },
  {
    says: 'a test is never skipped or left for later',
    pattern: /\b(?:test|it|describe)\.(?:skip|todo|only)\(|\{ *skip:/,
    in: 'test/**/*.ts',
    except: [],
  },
  {
    says: 'a key is never turned into text',
    pattern: /(?:secret|passphrase|key)\w*\.use\([^)]*toString/i,
    in: 'src/**/*.ts',
    except: [],
  },
  {
    says: 'the environment is read in main, root-helper and core/crash-point only',
    pattern: /process\.env/,
    in: 'src/**/*.ts',
    except: ['src/core/crash-point.ts', 'src/main/service.ts', 'src/root-helper/main.ts'],
  },
];

/** Every file that breaks a house rule, as a line each. `import type` starts nothing. */
export async function checkSources(): Promise<string[]> {
  const problems: string[] = [];
  for (const rule of rules) {
    for await (const path of glob(rule.in)) {
      if (rule.except.includes(path)) continue;
      const text = (await readFile(path, 'utf8')).replace(/^import type .*$/gm, '');
      if (rule.pattern.test(text)) problems.push(`${path}: ${rule.says}`);
    }
  }
  return problems;
}
