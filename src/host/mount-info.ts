/** One line of `/proc/PID/mountinfo`. `device` is `major:minor`, the same for one file system in every namespace. */
export type Mount = { readonly device: string; readonly path: string; readonly type: string };

/** Reads `/proc/PID/mountinfo`, in the order of mounting. *See* proc_pid_mountinfo(5). */
export function parseMountInfo(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const fields = line.split(' ');
    const [, , device, , path] = fields;
    const type = fields[fields.indexOf('-', 6) + 1];
    if (device === undefined || path === undefined || type === undefined || fields.length < 9) return [];
    return [{ device, path: unescapePath(path), type }];
  });
}

/** What is mounted at exactly `path`: the last one, which covers those before it. Null: nothing. */
export function mountAt(mounts: readonly Mount[], path: string): Mount | null {
  return mounts.findLast((mount) => mount.path === path) ?? null;
}

/** The kernel writes space, tab, newline and backslash as a backslash and three octal digits, bytes of UTF-8 as they are. */
function unescapePath(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
