/**
 * `nydus-image`: builds and checks images (rafs-format 7.5-7.7). Importing this file does nothing; `main` runs a command
 * and answers its exit code.
 */
import yargs, { type Argv } from 'yargs';
import { AppError, explain } from '../common/app-error.ts';
import { versionText } from '../daemon/build-info.ts';
import { imageError } from '../image/errors.ts';
import { complainRaw, EXIT_FAILED, EXIT_OK, print, report, usageError } from './fail.ts';
import { checkOptions, runCheck } from './nydus-image-check.ts';
import { createOptions, runCreate } from './nydus-image-create.ts';

const NAME = 'nydus-image';

/** Commands of the reference tool that are not built yet, and what they would do. */
const NOT_BUILT = {
  merge: 'Overlay the bootstraps of layers',
  inspect: 'Look into a bootstrap interactively',
  stat: 'Count chunks, files and duplicates',
  unpack: 'Turn an image into a tar file',
  compact: 'Rewrite blobs that are little used',
  optimize: 'Copy the chunks of listed files into a blob of their own',
  export: 'Write an image as a disk with dm-verity',
  chunkdict: 'Make chunk dictionaries',
} as const;

/** @param argv without interpreter and script. @returns 0 done, 1 failed, 2 command-line error */
export async function main(argv: readonly string[]): Promise<number> {
  let code = EXIT_OK;
  const parser = commandLine(argv, (result) => {
    code = result;
  });
  try {
    if (argv.length === 0) print(`${await parser.getHelp()}\n`);
    else await parser.parseAsync();
    return code;
  } catch (error) {
    if (error instanceof AppError && error.code === 'USAGE') return report(NAME, error);
    complainRaw(`Error: ${explain(error)}\n`);
    return EXIT_FAILED;
  }
}

function commandLine(argv: readonly string[], done: (code: number) => void) {
  const parser = yargs([...argv])
    .scriptName(NAME)
    .usage('Builds and checks RAFS images.\n\nUsage: $0 COMMAND [OPTIONS]')
    .parserConfiguration({
      'boolean-negation': false,
      'camel-case-expansion': false,
      'duplicate-arguments-array': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
    })
    .locale('en')
    .wrap(120)
    .version(versionText())
    .alias({ version: 'V', help: 'h' })
    .command('create <SOURCE>', 'Build an image from a directory', createOptions, async (args) =>
      done(await runCreate(args)),
    )
    .command('check [BOOTSTRAP]', 'Read a whole image and say whether it is valid', checkOptions, (args) =>
      done(runCheck(args)),
    );
  for (const [name, what] of Object.entries(NOT_BUILT)) {
    const builder = (own: Argv) => own.strict(false);
    parser.command(`${name} [ARGS..]`, `${what} (not built yet)`, builder, () => {
      throw imageError('NOT_BUILT', { what: `command ${name}`, instead: 'use the reference nydus-image for it' });
    });
  }
  return parser
    .strict()
    .exitProcess(false)
    .fail((message, error) => {
      if (error instanceof AppError) throw error;
      throw usageError('USAGE', { command: NAME, text: error?.message ?? message });
    });
}
